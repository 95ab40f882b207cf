//! The command line: verbs, options, and the request that they make. Knows neither sockets nor output.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mana_control::wire::{HISTORY_LAST_DEFAULT, Options, WireError};
use mana_control::{Host, Request, Slot, Verb};

use super::deploy::arguments::DeployArguments;
use super::terminal::ColorChoice;
use crate::config::parse_duration;

/// A TLS reverse proxy whose blue/green cutover drops nothing.
#[derive(Debug, Parser)]
#[command(name = "mana-proxy", version, after_help = EXIT_CODES, disable_help_subcommand = false)]
pub struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 refused (nothing was changed), 64 usage, \
                          69 daemon not reachable, 78 bad configuration, 130 ended by a second signal.";

/// Options of every verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
pub(super) struct Global {
    /// The control socket [default: run/control.sock if it is there, else /run/mana-proxy/control.sock]
    #[arg(long, global = true, value_name = "PATH", env = "MANA_PROXY_SOCKET")]
    pub(super) socket: Option<PathBuf>,
    /// Print the reply as one JSON object
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// The site, if there are several
    #[arg(long, global = true, value_name = "HOST")]
    pub(super) site: Option<Host>,
    /// When to colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: ColorChoice,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve, in the foreground
    Run(ConfigFile),
    /// Serve a demonstration with two upstreams of its own
    Demo,
    /// Name every fault of a configuration; binds nothing
    Check(ConfigFile),
    /// Look at this machine, and say what would hurt
    Doctor {
        /// The configuration to look with
        #[arg(
            long,
            value_name = "FILE",
            default_value = "/etc/mana-proxy/mana-proxy.toml"
        )]
        config: PathBuf,
    },
    /// Bring a release: start it, try it, make it active, watch it; or bring the one before back
    Deploy(DeployArguments),
    /// Certificates: list, renew, import, check
    #[command(subcommand)]
    Certs(Certs),
    /// Print what a shell completes these verbs and options with
    Completions {
        /// Whose language
        shell: Shell,
    },
    /// Write the manual pages; packages are made with it
    #[command(hide = true)]
    ManPages {
        /// A directory that is there
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
    #[command(flatten)]
    Remote(Remote),
}

/// Shells that completions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// /usr/share/bash-completion/completions/mana-proxy
    Bash,
    /// /usr/share/zsh/vendor-completions/_mana-proxy
    Zsh,
    /// /usr/share/fish/vendor_completions.d/mana-proxy.fish
    Fish,
}

/// Verbs that the daemon carries out.
#[derive(Debug, Subcommand)]
pub(super) enum Remote {
    /// Read the configuration again: all of it or nothing
    Reload(Note),
    /// Make a slot active, and wait until the other has drained
    Switch {
        /// blue or green
        slot: Slot,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        gate: Gate,
    },
    /// Make the slot active that was so before the last switch
    Rollback {
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        gate: Gate,
    },
    /// Show every site: slots, health, requests
    Status,
    /// Probe a slot as before a switch, and change nothing
    Probe {
        /// blue or green
        slot: Slot,
    },
    /// Write a line into the journal
    Note {
        /// For example "restarted the database"
        #[arg(value_name = "TEXT")]
        text: String,
    },
    /// Take the standby slot out of use, and wait for its requests
    Drain {
        /// blue or green
        slot: Slot,
        /// Put it back into use
        #[arg(long, conflicts_with_all = ["drain_timeout", "no_wait"])]
        undo: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Answer 503, or serve again
    Maintenance {
        /// on or off
        state: OnOff,
        #[command(flatten)]
        note: Note,
    },
    /// Hold new requests until `resume`
    Pause(Note),
    /// Let held requests go
    Resume(Note),
    /// Hand everything to a new process, without refusing anybody
    ///
    /// It is of the file that the running process was started from, as that file is now.
    Upgrade {
        /// Start this program instead of the file that the running process was started from; for root and the daemon's
        /// own user
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        /// How long the new process may take for each of its two steps [default: 30s]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        timeout: Option<Duration>,
        /// If the process before the running one still drains, wait until it has
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        note: Note,
    },
    /// Show the last changes, and who made them
    History {
        /// How many
        #[arg(long, value_name = "N", default_value_t = HISTORY_LAST_DEFAULT)]
        last: usize,
    },
}

/// Verbs about certificates.
#[derive(Debug, Subcommand)]
pub(super) enum Certs {
    /// Show every certificate: names, issuer, days left, the next attempt and why
    List,
    /// Renew what is due, without waiting for its time
    Renew {
        /// Renew in any case; counts against the budget
        #[arg(long)]
        force: bool,
    },
    /// Take over the certificate of Certbot, so that none has to be ordered
    Import {
        /// For example /etc/letsencrypt/live/mana.so: fullchain.pem and privkey.pem are in it
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// The configuration that names the site and the state directory
        #[arg(
            long,
            value_name = "FILE",
            default_value = "/etc/mana-proxy/mana-proxy.toml"
        )]
        config: PathBuf,
    },
    /// Do one handshake as a client would, and show the certificate
    Check {
        /// The name to ask for
        #[arg(value_name = "HOST")]
        host: Host,
        /// Where to connect [default: port 443 of HOST]
        #[arg(long, value_name = "ADDRESS:PORT")]
        via: Option<String>,
        /// Trust the roots in this PEM file and no others
        #[arg(long, value_name = "FILE")]
        ca_root: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// The configuration, for example /etc/mana-proxy/mana-proxy.toml
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// How long to wait for requests and tunnels, for example 30s [default: as the site is configured]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    drain_timeout: Option<Duration>,
    /// Return once the change is made; the drain goes on by itself
    #[arg(long)]
    no_wait: bool,
    /// Change nothing unless the site's generation is N
    #[arg(long, value_name = "N")]
    if_generation: Option<u64>,
    #[command(flatten)]
    note: Note,
}

#[derive(Debug, Args)]
pub(super) struct Gate {
    /// Do not probe first: the slot gets traffic whether it answers or not
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Note {
    /// Why; goes to the journal
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnOff {
    /// Answer 503
    On,
    /// Serve
    Off,
}

// === impl Global ===

impl Global {
    /// The socket that was named, or the one of a development run here, or the system's.
    pub(super) fn socket(&self) -> PathBuf {
        match &self.socket {
            Some(socket) => socket.clone(),
            None if Path::new(LOCAL_SOCKET).exists() => PathBuf::from(LOCAL_SOCKET),
            None => PathBuf::from(SYSTEM_SOCKET),
        }
    }
}

const LOCAL_SOCKET: &str = "run/control.sock";
const SYSTEM_SOCKET: &str = "/run/mana-proxy/control.sock";

// === impl Remote ===

impl Remote {
    /// The request, checked as the daemon will check it, so that nonsense never gets as far as the socket.
    ///
    /// # Errors
    /// Options that do not fit the verb, or values out of their range.
    pub(super) fn into_request(self, site: Option<Host>) -> Result<Request, WireError> {
        let mut request = match self {
            Remote::Reload(note) => note.on(Request::new(Verb::Reload)),
            Remote::Switch { slot, change, gate } => change.on(Verb::Switch(slot), gate.force),
            Remote::Rollback { change, gate } => change.on(Verb::Rollback, gate.force),
            Remote::Status => Request::new(Verb::Status),
            Remote::Probe { slot } => Request::new(Verb::Probe(slot)),
            Remote::Note { text } => Request {
                note: Some(text),
                ..Request::new(Verb::Note)
            },
            Remote::Drain { slot, undo, change } => {
                let verb = if undo {
                    Verb::Undrain(slot)
                } else {
                    Verb::Drain(slot)
                };
                change.on(verb, false)
            }
            Remote::Maintenance { state, note } => {
                note.on(Request::new(Verb::Maintenance(state == OnOff::On)))
            }
            Remote::Pause(note) => note.on(Request::new(Verb::Pause)),
            Remote::Resume(note) => note.on(Request::new(Verb::Resume)),
            Remote::Upgrade {
                binary,
                timeout,
                wait,
                note,
            } => {
                let mut request = note.on(Request::new(Verb::Upgrade));
                // The daemon has another working directory.
                request.binary = binary.map(|path| std::path::absolute(&path).unwrap_or(path));
                request.options.timeout = timeout;
                request.options.wait = wait;
                request
            }
            Remote::History { last } => Request::new(Verb::History { last }),
        };
        request.site = site;
        Request::parse(request.to_json_line().as_bytes())
    }
}

// === impl Change, Note ===

impl Change {
    fn on(self, verb: Verb, force: bool) -> Request {
        let mut request = self.note.on(Request::new(verb));
        // Whoever waits is told what for.
        request.progress = !self.no_wait && !matches!(verb, Verb::Undrain(_));
        request.options = Options {
            drain_timeout: self.drain_timeout,
            no_wait: self.no_wait,
            force,
            if_generation: self.if_generation,
            ..Options::default()
        };
        request
    }
}

impl Note {
    fn on(self, mut request: Request) -> Request {
        request.note = self.note;
        request
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(line: &str) -> Result<Request, String> {
        let words = std::iter::once("mana-proxy").chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        match arguments.command {
            Command::Remote(remote) => remote
                .into_request(arguments.global.site)
                .map_err(|error| error.to_string()),
            other => panic!("{other:?} is not for the daemon"),
        }
    }

    #[test]
    fn each_verb_makes_its_request() {
        for (line, verb, progress) in [
            ("status", Verb::Status, false),
            ("probe green", Verb::Probe(Slot::Green), false),
            ("note text", Verb::Note, false),
            ("switch green", Verb::Switch(Slot::Green), true),
            ("switch blue --no-wait", Verb::Switch(Slot::Blue), false),
            ("rollback", Verb::Rollback, true),
            ("drain blue", Verb::Drain(Slot::Blue), true),
            ("drain blue --undo", Verb::Undrain(Slot::Blue), false),
            ("maintenance on", Verb::Maintenance(true), false),
            ("maintenance off", Verb::Maintenance(false), false),
            ("pause", Verb::Pause, false),
            ("resume", Verb::Resume, false),
            ("reload", Verb::Reload, false),
            ("upgrade --timeout 5s --wait", Verb::Upgrade, false),
            ("history", Verb::History { last: 20 }, false),
            ("history --last 3", Verb::History { last: 3 }, false),
        ] {
            let request = request(line).unwrap();
            assert_eq!((request.verb, request.progress), (verb, progress), "{line}");
        }
    }

    #[test]
    fn options_reach_the_request() {
        let line = "switch green --site Mana.so --drain-timeout 5m --force --if-generation 7 --note release-41";
        let request = request(line).unwrap();
        assert_eq!(request.site.unwrap().as_str(), "mana.so");
        assert_eq!(request.note.as_deref(), Some("release-41"));
        assert_eq!(
            request.options.drain_timeout,
            Some(Duration::from_secs(300))
        );
        assert_eq!(request.options.if_generation, Some(7));
        assert!(request.options.force && !request.options.no_wait);
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_the_socket() {
        for (line, reason) in [
            ("switch red", "it is blue or green"),
            ("switch", "required"),
            (
                "switch green --drain-timeout 30",
                "write 500ms, 30s, 5m or 1h",
            ),
            ("switch green --drain-timeout 25h", "at most 24h"),
            ("switch green --site a/b", "is not a host name"),
            ("drain blue --undo --no-wait", "cannot be used with"),
            ("drain blue --force", "unexpected argument"),
            ("history --last 0", "1 to 1000"),
            ("history --site mana.so", "does not take site"),
            ("upgrade --site mana.so", "does not take site"),
            ("upgrade --timeout 11m", "1ms to 10m"),
            ("maintenance maybe", "possible values: on, off"),
            ("swich green", "unrecognized subcommand"),
        ] {
            let error = request(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}

//! The real hands: `docker`, compose, the daemon's socket, the files of the deploy directory.
//!
//! Owns the reading of what commands print; `daemon` the calls over the socket, `login` the way to a registry. What commands
//! are told is in `commands`, when they run in `course`.

mod daemon;
mod login;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client::ClientError;
use crate::deploy::commands::{Commands, Compose, Invocation};
use crate::deploy::container::{Container, parse_inspect};
use crate::deploy::hands::{Announcement, EngineNow, Hands, ImageNow, SiteNow, Switched, Trouble};
use crate::deploy::image::ImageName;
use crate::deploy::ledger::Ledger;
use crate::deploy::lock::Lock;
use crate::deploy::machine;
use crate::deploy::page;
use crate::deploy::run::run;
use crate::deploy::settings::DeploySettings;
use crate::deploy::steps::Said;
use crate::reply::{Code, Reply};
use crate::slot::Slot;
use crate::wire::{NOTE_BYTES_MAX, Options, Request, Verb};

/// How long a command may take, unless it is one for which this is configured. Stopping a container takes longest: as long
/// as `stop_grace_period` of its compose file.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a command may take that only looks.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a slot that is reserved by somebody else is waited for.
pub const RESERVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the daemon may take for a line of the journal, which a deploy does not depend on.
pub const NOTE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the daemon may take for anything but a drain.
pub const DAEMON_TIMEOUT: Duration = Duration::from_secs(30);
const BUSY_PAUSE: Duration = Duration::from_millis(250);
/// Last lines of a container that are shown.
pub const LOG_LINES: usize = 20;
/// The longest of them.
pub const LOG_LINE_BYTES_MAX: usize = 500;

pub use login::remove_left_logins;

/// Who hears of a deploy.
pub trait Herald {
    /// What happens, as it happens.
    fn say(&mut self, said: Said);
    /// What is sent to others. Must not wait for them.
    fn announce(&mut self, announcement: &Announcement);
}

/// A registry's token. Never shown.
#[derive(Clone)]
pub struct Token(String);

/// The real hands.
pub struct Engine<'a> {
    settings: &'a DeploySettings,
    compose: Compose,
    socket: PathBuf,
    token: Option<Token>,
    /// None where nothing is changed.
    lock: Option<Lock>,
    /// Connections that slots are reserved by.
    reservations: Vec<JoinSet<Result<Reply, ClientError>>>,
    herald: &'a mut dyn Herald,
}

// === impl Token ===

impl Token {
    /// The token without the newline at its end; none if nothing is left.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_owned()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

// === impl Engine ===

impl<'a> Engine<'a> {
    /// Finds out how compose is called here.
    pub async fn new(
        settings: &'a DeploySettings,
        socket: PathBuf,
        token: Option<Token>,
        lock: Option<Lock>,
        herald: &'a mut dyn Herald,
    ) -> Engine<'a> {
        let mut engine = Engine {
            settings,
            compose: Compose::Plugin,
            socket,
            token,
            lock,
            reservations: Vec::new(),
            herald,
        };
        if engine
            .done(&engine.commands().compose_plugin())
            .await
            .is_err()
        {
            engine.compose = Compose::Standalone;
        }
        engine
    }

    /// The commands, as they would be run.
    pub fn commands(&self) -> Commands<'a> {
        Commands {
            settings: self.settings,
            compose: self.compose,
        }
    }

    /// Runs a command that has to succeed; what it printed.
    async fn done(&self, invocation: &Invocation) -> Result<String, Trouble> {
        let patience = match invocation.holds_lock {
            true => COMMAND_TIMEOUT,
            false => READ_TIMEOUT,
        };
        let ended = run(invocation, self.lock.as_ref(), None, patience, |_| {}).await?;
        ended.checked(invocation)
    }

    /// The containers of a slot, those that run first.
    async fn containers(&self, slot: Slot) -> Result<Vec<Container>, Trouble> {
        let ids = self.done(&self.commands().containers(slot)).await?;
        let ids: Vec<String> = ids.split_whitespace().map(str::to_owned).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let inspect = self.commands().inspect(&ids);
        let printed = self.done(&inspect).await?;
        let mut containers = parse_inspect(&printed).map_err(|_| strange(&inspect, &printed))?;
        containers.sort_by_key(|container| !container.state.is_running);
        Ok(containers)
    }
}

impl Hands for Engine<'_> {
    async fn site(&mut self) -> Result<SiteNow, Trouble> {
        let (reply, _) = self
            .call(self.request(Verb::Status), Some(DAEMON_TIMEOUT))
            .await?;
        let site = reply.field("sites").and_then(|sites| sites.get(0));
        site.and_then(SiteNow::read).ok_or_else(|| {
            Trouble::Daemon(
                "the daemon's status is not understood; is it of this version?".to_owned(),
            )
        })
    }

    async fn probe(&mut self, slot: Slot) -> Result<String, Trouble> {
        // Bounded by the probes themselves: `of` of them, each within its timeout.
        let (reply, _) = self.call(self.request(Verb::Probe(slot)), None).await?;
        let number = |name| {
            reply
                .field(name)
                .and_then(Value::as_u64)
                .unwrap_or_default()
        };
        let path = reply.field("path").and_then(Value::as_str).unwrap_or("/");
        Ok(format!(
            "{} good probes of at most {} on {path}",
            number("pass"),
            number("of")
        ))
    }

    async fn switch(
        &mut self,
        slot: Slot,
        if_generation: u64,
        note: &str,
    ) -> Result<Switched, Trouble> {
        let request = Request {
            note: Some(fit(note)),
            progress: true,
            options: Options {
                if_generation: Some(if_generation),
                // The drain is watched, and so is the new release meanwhile.
                no_wait: true,
                ..Options::default()
            },
            ..self.request(Verb::Switch(slot))
        };
        let (reply, published) = self
            .change(request, Some(self.settings.start_timeout + DAEMON_TIMEOUT))
            .await?;
        let field = |name| reply.field(name);
        Ok(Switched {
            generation: field("generation")
                .and_then(Value::as_u64)
                .unwrap_or_default(),
            published,
            warning: field("warning").and_then(Value::as_str).map(str::to_owned),
        })
    }

    async fn reserve(&mut self, slot: Slot) -> Result<(), Trouble> {
        let deadline = Instant::now() + RESERVE_PATIENCE;
        loop {
            match self.begin_reservation(slot).await {
                // A deploy that was killed is noticed after a moment.
                Err(Trouble::Refused {
                    code: Code::Busy, ..
                }) if Instant::now() < deadline => sleep(BUSY_PAUSE).await,
                begun => return begun,
            }
        }
    }

    async fn drain(&mut self, slot: Slot) -> Result<bool, Trouble> {
        let (reply, _) = self
            .change(
                self.request(Verb::Drain(slot)),
                Some(self.settings.drain + DAEMON_TIMEOUT),
            )
            .await?;
        Ok(reply
            .field("drained")
            .and_then(Value::as_bool)
            .unwrap_or(false))
    }

    async fn undrain(&mut self, slot: Slot) -> Result<(), Trouble> {
        self.change(self.request(Verb::Undrain(slot)), Some(DAEMON_TIMEOUT))
            .await
            .map(drop)
    }

    async fn note(&mut self, text: &str) -> Result<(), Trouble> {
        let request = Request {
            note: Some(fit(text)),
            ..self.request(Verb::Note)
        };
        self.call(request, Some(NOTE_TIMEOUT)).await.map(drop)
    }

    async fn engine(&mut self) -> Result<EngineNow, Trouble> {
        let info = self.commands().engine();
        let printed = self.done(&info).await?;
        let read: Option<Value> = serde_json::from_str(&printed).ok();
        let text = |name: &str| Some(read.as_ref()?.get(name)?.as_str()?.to_owned());
        // An engine that cannot be reached is an error inside of the answer, and the command succeeds.
        let errors = read
            .as_ref()
            .and_then(|info| info.get("ServerErrors")?.as_array())
            .into_iter()
            .flatten();
        if let Some(error) = errors.filter_map(Value::as_str).next() {
            return Err(Trouble::Engine {
                command: info.to_string(),
                said: format!("failed: {error}"),
            });
        }
        match (
            text("ServerVersion").filter(|version| !version.is_empty()),
            text("DockerRootDir"),
        ) {
            (Some(version), Some(root)) => Ok(EngineNow {
                version,
                root: root.into(),
            }),
            _ => Err(strange(&info, &printed)),
        }
    }

    async fn check_compose(&mut self, images: &[String; 2]) -> Result<(), Trouble> {
        let services = self.commands().services(images);
        let printed = self.done(&services).await?;
        let names: Vec<&str> = printed.split_whitespace().collect();
        for slot in Slot::BOTH {
            let service = &self.settings.service(slot).service;
            if !names.contains(&service.as_str()) {
                return Err(Trouble::Engine {
                    command: services.to_string(),
                    said: format!(
                        "knows no service {service} (deploy.{slot}.service); there is {}",
                        names.join(", ")
                    ),
                });
            }
        }
        Ok(())
    }

    async fn container(&mut self, slot: Slot) -> Result<Option<Container>, Trouble> {
        Ok(self.containers(slot).await?.into_iter().next())
    }

    async fn memory_of(&mut self, id: &str) -> Option<u64> {
        let printed = self.done(&self.commands().usage(id)).await.ok()?;
        machine::parse_usage(&printed)
    }

    async fn image(&mut self, reference: &str) -> Result<Option<ImageNow>, Trouble> {
        let inspect = self.commands().image(reference);
        let ended = run(&inspect, None, None, READ_TIMEOUT, |_| {}).await?;
        if !ended.is_success() && ended.stderr.to_ascii_lowercase().contains("no such image") {
            return Ok(None);
        }
        let printed = ended.checked(&inspect)?;
        let image = ImageNow::read(&printed);
        image.map(Some).ok_or_else(|| strange(&inspect, &printed))
    }

    async fn pull(&mut self, image: &ImageName) -> Result<(), Trouble> {
        match (self.settings.registry_user.clone(), self.token.clone()) {
            (Some(user), Some(token)) => self.pull_logged_in(image, &user, &token).await,
            _ => {
                let patience = self.settings.pull_timeout;
                self.pull_with(image, None, patience).await
            }
        }
    }

    async fn create(&mut self, slot: Slot, images: &[String; 2]) -> Result<Container, Trouble> {
        // Compose would rename the old container before it removes it, and leave both if it is interrupted.
        for old in self.containers(slot).await? {
            if old.state.is_running {
                self.done(&self.commands().stop(&old.id)).await?;
            }
            self.done(&self.commands().remove(&old.id)).await?;
        }
        let create = self.commands().create(slot, images);
        self.done(&create).await?;
        self.container(slot).await?.ok_or_else(|| Trouble::Engine {
            command: create.to_string(),
            said: "made no container".to_owned(),
        })
    }

    async fn start(&mut self, id: &str) -> Result<(), Trouble> {
        self.done(&self.commands().start(id)).await.map(drop)
    }

    async fn stop(&mut self, id: &str) -> Result<(), Trouble> {
        self.done(&self.commands().stop(id)).await.map(drop)
    }

    async fn logs(&mut self, id: &str) -> Vec<String> {
        let logs = self.commands().logs(id, LOG_LINES);
        let Ok(ended) = run(&logs, None, None, DAEMON_TIMEOUT, |_| {}).await else {
            return Vec::new();
        };
        // Which of the two streams a line came on first cannot be told; errors are more often what is looked for.
        let lines = ended.stdout.lines().chain(ended.stderr.lines());
        let mut lines: Vec<String> = lines.map(shown).collect();
        lines.drain(..lines.len().saturating_sub(LOG_LINES));
        lines
    }

    async fn remove_image(&mut self, reference: &str) -> Result<(), Trouble> {
        self.done(&self.commands().remove_image(reference))
            .await
            .map(drop)
    }

    async fn page(&mut self, upstream: &str, path: &str) -> Result<(u16, Duration), Trouble> {
        let began = Instant::now();
        let status = page::get(upstream, self.settings.site.as_str(), path).await;
        let status = status.map_err(|said| Trouble::Page {
            upstream: upstream.to_owned(),
            path: path.to_owned(),
            said: said.to_string(),
        })?;
        Ok((status, began.elapsed()))
    }

    fn disk_free(&mut self, root: &Path) -> Option<u64> {
        machine::disk_free(root).ok()
    }

    fn memory_free(&mut self) -> Result<u64, Trouble> {
        machine::memory_free().map_err(|source| Trouble::Machine {
            what: "cannot see how much memory is free".to_owned(),
            source,
        })
    }

    fn unix_time(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }

    fn store(&mut self, ledger: &Ledger) -> Result<(), Trouble> {
        Ok(ledger.store(&self.settings.dir)?)
    }

    fn say(&mut self, said: Said) {
        self.herald.say(said);
    }

    fn announce(&mut self, announcement: &Announcement) {
        self.herald.announce(announcement);
    }
}

fn strange(invocation: &Invocation, printed: &str) -> Trouble {
    Trouble::Strange {
        command: invocation.to_string(),
        printed: printed.chars().take(200).collect(),
    }
}

/// A note as the daemon takes it: bounded, and without control characters.
fn fit(note: &str) -> String {
    let mut note: String = note
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX));
    note
}

/// A line of a container, fit to be shown.
fn shown(line: &str) -> String {
    let line = &line[..line.floor_char_boundary(LOG_LINE_BYTES_MAX)];
    line.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::new("  s3cret\n").expect("token");
        assert_eq!(
            (token.0.as_str(), format!("{token:?}").as_str()),
            ("s3cret", "Token(..)")
        );
        assert!(Token::new(" \n").is_none());
    }

    #[test]
    fn what_containers_write_cannot_steer_a_terminal_or_fill_it() {
        assert_eq!(shown("a\x1b[2Jb\tc"), "a\u{fffd}[2Jb\tc");
        assert!(shown(&"ü".repeat(LOG_LINE_BYTES_MAX)).len() <= LOG_LINE_BYTES_MAX);
        assert_eq!(fit("a\nb"), "a b");
        assert!(fit(&"ü".repeat(NOTE_BYTES_MAX)).len() <= NOTE_BYTES_MAX);
    }
}

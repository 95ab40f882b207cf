//! The command line: argv in, a verb carried out, an exit code out.
//!
//! Owns the verbs, what they print and how they end. stdout is data, stderr is talk; every error is followed by one
//! `hint:` line that says what to do next. `run` and `demo` are carried out by a [`Daemon`], everything else here or by
//! the daemon at the other end of the control socket.

mod arguments;
mod certs;
mod check;
mod deploy;
mod doctor;
mod exit;
mod generate;
mod history;
mod progress;
mod remote;
mod render;
mod spool;
mod status;
mod terminal;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
pub use exit::Exit;
use spool::Spool;
use terminal::{Paint, Terminal};

use crate::config::{Config, ConfigError};
use crate::error_text::with_sources;

/// What serves. The seam between the command line and the data plane.
pub trait Daemon {
    /// Serves until told to stop. `file` is what a reload reads again.
    ///
    /// # Errors
    /// It could not start, or could not go on; the chain of sources is shown to the operator.
    fn run(&self, config: Config, file: &Path) -> Result<(), Stopped>;

    /// Serves a demonstration until told to stop.
    ///
    /// # Errors
    /// As [`Daemon::run`].
    fn demo(&self) -> Result<(), Stopped>;
}

/// Why a daemon could not start, or could not go on.
#[derive(Debug)]
pub struct Stopped {
    /// What failed, about what; its sources are shown behind it.
    pub error: Box<dyn Error>,
    /// What the operator can do, if it is known.
    pub hint: Option<String>,
}

/// Carries out a command line; `arguments` starts with the name of the program.
pub fn main(arguments: impl IntoIterator<Item = OsString>, daemon: &dyn Daemon) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error).into(),
    };
    let paint = Paint::for_stdout(arguments.global.color);
    if matches!(&arguments.command, Command::Deploy(deploy) if deploy.brings())
        && let (Ok(mut data), Ok(mut talk)) =
            (Spool::start(io::stdout()), Spool::start(io::stderr()))
    {
        let mut terminal = Terminal::spooled(&mut data, &mut talk, paint);
        let exit = carry_out(arguments, daemon, &mut terminal);
        // When nobody listens there is nobody to be told so.
        talk.flush().ok();
        return exit.into();
    }
    let (mut data, mut talk) = (io::stdout(), io::stderr());
    let mut terminal = Terminal::new(&mut data, &mut talk, paint);
    carry_out(arguments, daemon, &mut terminal).into()
}

/// Help and version go to stdout and are no errors; all else that clap stops at is.
fn explain(error: &clap::Error) -> Exit {
    // When nobody listens there is nobody to be told so; the exit code still says how it went.
    if error.use_stderr() {
        let _ = io::stderr().write_all(usage_error(error).as_bytes());
        Exit::Usage
    } else {
        let _ = error.print();
        Exit::Done
    }
}

/// clap's own words, with the advice at their end in the form that all errors have.
fn usage_error(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.trim_end().trim_end_matches(CLAP_ADVICE).trim_end();
    format!("{text}\nhint: try `mana-proxy --help`\n")
}

const CLAP_ADVICE: &str = "For more information, try '--help'.";

fn carry_out(arguments: Arguments, daemon: &dyn Daemon, terminal: &mut Terminal<'_>) -> Exit {
    let Arguments { global, command } = arguments;
    match command {
        Command::Run(file) => match Config::load(&file.config) {
            Ok(config) => served(daemon.run(config, &file.config), terminal),
            Err(error) => refuse_config(&error, terminal),
        },
        Command::Demo => served(daemon.demo(), terminal),
        Command::Check(file) => check::check(&file.config, global.json, terminal),
        Command::Doctor { config } => doctor::examine(&config, &global, terminal),
        Command::Completions { shell } => generate::completions(shell, terminal),
        Command::ManPages { to } => generate::man_pages(&to, terminal),
        Command::Certs(verb) => certs::carry_out(verb, &global, terminal),
        Command::Deploy(deploy) => deploy::carry_out(deploy, &global, terminal),
        Command::Remote(remote) => remote::call(remote, &global, terminal),
    }
}

fn served(result: Result<(), Stopped>, terminal: &mut Terminal<'_>) -> Exit {
    let Err(Stopped { error, hint }) = result else {
        return Exit::Done;
    };
    let usual = "the lines above say what was done before; `mana-proxy check` looks at the configuration alone";
    terminal.error(
        &with_sources(error.as_ref()),
        hint.as_deref().unwrap_or(usual),
    );
    Exit::Failed
}

fn refuse_config(error: &ConfigError, terminal: &mut Terminal<'_>) -> Exit {
    match error {
        ConfigError::Unreadable { .. } => {
            terminal.error(
                &with_sources(error),
                "name the file with --config, or let this user read it",
            );
        }
        ConfigError::Faults(faults) => {
            for fault in faults {
                terminal.talk(&fault.to_string());
            }
            let (count, noun) = (
                faults.len(),
                if faults.len() == 1 { "fault" } else { "faults" },
            );
            let hint = "mend the lines above; deploy/mana-proxy.toml shows every key";
            terminal.error(&format!("the configuration has {count} {noun}"), hint);
        }
    }
    Exit::BadConfig
}

/// Data is written, or it is said why not. A verb that was carried out but cannot be reported has failed its caller.
fn print(text: &str, exit: Exit, terminal: &mut Terminal<'_>) -> Exit {
    match terminal.data(text) {
        Ok(()) => exit,
        Err(error) => {
            let hint = "what was asked for may have been done; look at `mana-proxy status`";
            terminal.error(&format!("cannot write to stdout: {error}"), hint);
            if exit == Exit::Done {
                Exit::Failed
            } else {
                exit
            }
        }
    }
}

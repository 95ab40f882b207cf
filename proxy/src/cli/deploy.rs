//! `mana-proxy deploy`: the verb that brings a release, and those that look at and tidy up after it.
//!
//! Owns how a deploy is ordered and reported. What it does is `mana_control::deploy`'s; the daemon is asked over its
//! socket like by every other verb.

pub(super) mod arguments;
mod history;
mod orderer;
mod plan;
mod report;
mod sender;
mod status;
mod teller;
mod token;

use std::path::{Path, PathBuf};

use mana_control::deploy::conduct::{self, ConductError, Means, Reconciled};
use mana_control::deploy::course::{Cancel, Order, What};
use mana_control::deploy::image::{ImageName, Version};
use mana_control::deploy::ledger::{About, Ledger, LedgerError};
use mana_control::deploy::lock::LockError;

use arguments::{Bring, DeployArguments, DeployVerb};
use teller::Teller;

use super::arguments::Global;
use super::exit::Exit;
use super::terminal::{Terminal, printable};
use super::{print, refuse_config, with_sources};
use crate::config::{Config, Deploy};
use crate::messages::{self, Patience};

/// Carries out `deploy` and the verbs below it.
pub(super) fn carry_out(
    arguments: DeployArguments,
    global: &Global,
    terminal: &mut Terminal<'_>,
) -> Exit {
    if !arguments.brings() && arguments.bring.is_given() {
        terminal.error(
            "the options of a deploy cannot be used with a verb below it",
            "leave them out, or the verb; --config and --json are for all of them",
        );
        return Exit::Usage;
    }
    let file = arguments.config.clone();
    let config = match Config::load(&file) {
        Ok(config) => config,
        Err(error) => return refuse_config(&error, terminal),
    };
    let socket = global
        .socket
        .clone()
        .unwrap_or_else(|| config.control.socket.clone());
    let Some(deploy) = config.deploy else {
        return without_section(&arguments, &file, terminal);
    };
    if let Some(site) = global
        .site
        .as_ref()
        .filter(|site| **site != deploy.settings.site)
    {
        let error = format!(
            "deploys are configured for {}, not for {site}",
            deploy.settings.site
        );
        terminal.error(&error, "leave --site out, or change deploy.site");
        return Exit::Usage;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.error(
                &format!("cannot begin: {error}"),
                "is there a limit on processes or descriptors?",
            );
            return Exit::Failed;
        }
    };
    let call = Call {
        deploy: &deploy,
        socket,
        file: &file,
        is_json: global.json,
    };
    runtime.block_on(async {
        match arguments.verb {
            None => call.bring(arguments.bring, terminal).await,
            Some(DeployVerb::Status) => call.status(terminal).await,
            Some(DeployVerb::History { last }) => call.history(last, terminal),
            Some(DeployVerb::Reconcile { boot }) => call.reconcile(boot, terminal).await,
            Some(DeployVerb::SendMessages) => call.send_messages(terminal).await,
        }
    })
}

/// A timer that runs where nothing is deployed has nothing to do; everybody else has forgotten something.
fn without_section(arguments: &DeployArguments, file: &Path, terminal: &mut Terminal<'_>) -> Exit {
    let error = format!("{} has no [deploy] section", file.display());
    match arguments.verb {
        Some(DeployVerb::Reconcile { .. } | DeployVerb::SendMessages) => {
            terminal.talk(&format!("{error}: nothing to do"));
            Exit::Done
        }
        _ => {
            terminal.error(&error, "deploy/mana-proxy.toml shows every key of it");
            Exit::BadConfig
        }
    }
}

/// One call of the command line.
struct Call<'a> {
    deploy: &'a Deploy,
    socket: PathBuf,
    file: &'a Path,
    is_json: bool,
}

impl Call<'_> {
    async fn bring(&self, bring: Bring, terminal: &mut Terminal<'_>) -> Exit {
        let what = match self.what(&bring) {
            Ok(what) => what,
            Err((error, hint)) => {
                terminal.error(&error, &hint);
                return Exit::Usage;
            }
        };
        let token = match token::read(&bring) {
            Ok(token) => token,
            Err(error) => {
                terminal.error(
                    &with_sources(&error),
                    "pipe it in, or name its file: one line, never an argument",
                );
                return Exit::Usage;
            }
        };
        if token.is_some() && self.deploy.settings.registry_user.is_none() {
            terminal.error(
                "there is a token, but no user to log in as",
                "set deploy.registry_user",
            );
            return Exit::Usage;
        }
        let order = Order {
            what,
            who: orderer::name(),
            about: About {
                repository: bring.repository,
                commit: bring.commit,
                branch: bring.branch,
                author: bring.author,
                note: bring.note,
            },
            if_generation: None,
        };
        let cancel = match orderer::cancelled() {
            Ok(cancel) => cancel,
            Err(error) => {
                terminal.error(&format!("cannot listen to signals: {error}"), "try again");
                return Exit::Failed;
            }
        };
        for error in messages::check(&self.deploy.messages) {
            terminal.talk(&format!(
                "warning: nobody is told there: {}",
                with_sources(&error)
            ));
        }
        match bring.dry_run {
            true => self.plan(order, cancel, terminal).await,
            false => {
                self.conduct(order, token, bring.wait, cancel, terminal)
                    .await
            }
        }
    }

    /// What is to be brought; else what is wrong, and what to do about it.
    fn what(&self, bring: &Bring) -> Result<What, (String, String)> {
        if bring.rollback {
            return Ok(What::Rollback);
        }
        let configured = self.deploy.settings.image.as_ref();
        let Some(repository) = bring.image.as_ref().or(configured) else {
            let hint = "name it with --image registry.example/team/app, or set deploy.image";
            return Err(("no image is named".to_owned(), hint.to_owned()));
        };
        let version = match (&bring.tag, &bring.digest) {
            (Some(tag), None) => Version::Tag(tag.clone()),
            (None, Some(digest)) => Version::Digest(digest.clone()),
            _ => {
                return Err((
                    "no version of the image is named".to_owned(),
                    "name it with --tag or --digest".to_owned(),
                ));
            }
        };
        let image = ImageName::new(repository, version);
        image
            .map(What::Image)
            .map_err(|fault| (fault.to_string(), "see `mana-proxy help deploy`".to_owned()))
    }

    async fn conduct(
        &self,
        order: Order,
        token: Option<conduct::Token>,
        wait: bool,
        cancel: Cancel,
        terminal: &mut Terminal<'_>,
    ) -> Exit {
        let outgoing = sender::Outgoing {
            deploy: self.deploy,
            file: self.file,
        };
        let mut teller = Teller::new(terminal, self.is_json, Some(outgoing));
        let means = Means {
            settings: &self.deploy.settings,
            socket: self.socket.clone(),
            token,
            herald: &mut teller,
        };
        let finished = conduct::deploy(means, order, wait, cancel).await;
        let troubles = teller.into_troubles();
        for trouble in &troubles {
            terminal.talk(&format!("warning: {trouble}"));
        }
        let missed = terminal.missed();
        if missed > 0 {
            terminal.talk(&format!(
                "warning: {missed} lines are left out, because nobody read those before them"
            ));
        }
        match finished {
            Ok(finished) => {
                let site = &self.deploy.settings.site;
                report::finished(&finished, site.as_str(), self.is_json, terminal)
            }
            Err(error) => self.not_begun(&error, terminal),
        }
    }

    async fn plan(&self, order: Order, cancel: Cancel, terminal: &mut Terminal<'_>) -> Exit {
        let mut teller = Teller::new(terminal, false, None);
        let means = self.means(&mut teller);
        let planned = conduct::plan(means, order, cancel).await;
        match planned {
            Ok(Ok(planned)) => print(&plan::render(&planned, self.is_json), Exit::Done, terminal),
            Ok(Err(failure)) => report::refused(&failure, self.is_json, terminal),
            Err(error) => self.not_begun(&error, terminal),
        }
    }

    async fn status(&self, terminal: &mut Terminal<'_>) -> Exit {
        let mut teller = Teller::new(terminal, false, None);
        let survey = conduct::survey(self.means(&mut teller)).await;
        match survey {
            Ok(survey) => {
                let now = std::time::SystemTime::now();
                let text = status::render(&survey, &self.deploy.settings, now, self.is_json);
                // What could not be looked at is in the text; that is no failure of looking.
                print(&text, Exit::Done, terminal)
            }
            Err(error) => self.not_begun(&error, terminal),
        }
    }

    fn history(&self, last: usize, terminal: &mut Terminal<'_>) -> Exit {
        match Ledger::load(&self.deploy.settings.dir) {
            Ok(ledger) => print(
                &history::render(&ledger, last, self.is_json),
                Exit::Done,
                terminal,
            ),
            Err(error) => self.not_begun(&error.into(), terminal),
        }
    }

    async fn reconcile(&self, is_boot: bool, terminal: &mut Terminal<'_>) -> Exit {
        let mut teller = Teller::new(terminal, false, None);
        let done = conduct::reconcile(self.means(&mut teller), &orderer::name(), is_boot).await;
        // Here, and not detached: whatever a service has begun ends with it. A deploy does not wait for this.
        let sent = sender::send(self.deploy, &self.socket, sender::RECONCILE, terminal).await;
        match done {
            Ok(Reconciled::Busy) => {
                terminal.talk(
                    "nothing to do: a deploy is being carried out, and sees to everything itself",
                );
                sent
            }
            Ok(Reconciled::Done(done)) => {
                for line in &done {
                    terminal.talk(line);
                }
                sent
            }
            Err(error) => self.not_begun(&error, terminal),
        }
    }

    async fn send_messages(&self, terminal: &mut Terminal<'_>) -> Exit {
        sender::send(self.deploy, &self.socket, Patience::default(), terminal).await
    }

    fn means<'a>(&'a self, teller: &'a mut Teller<'_, '_>) -> Means<'a> {
        Means {
            settings: &self.deploy.settings,
            socket: self.socket.clone(),
            token: None,
            herald: teller,
        }
    }

    fn not_begun(&self, error: &ConductError, terminal: &mut Terminal<'_>) -> Exit {
        let (exit, hint) = match error {
            ConductError::Lock(LockError::Held(_)) => (
                Exit::Refused,
                "nothing was changed; --wait queues behind it",
            ),
            ConductError::WaitedTooLong { .. } => (
                Exit::Refused,
                "nothing was changed; see `mana-proxy deploy status`",
            ),
            ConductError::Interrupted => (Exit::Refused, "order it again"),
            ConductError::Directory { .. } | ConductError::Lock(LockError::Io { .. }) => (
                Exit::Refused,
                "nothing was changed; make deploy.dir writable for those who deploy (the package's is for the group mana-proxy-deploy)",
            ),
            ConductError::Ledger(LedgerError::Newer { .. }) => (
                Exit::Refused,
                "nothing was changed; deploy with the version that wrote it",
            ),
            ConductError::Ledger(_) => (Exit::Refused, "nothing was changed"),
            ConductError::Trouble(trouble) => {
                let exit = if trouble.is_unreachable() {
                    Exit::Unreachable
                } else {
                    Exit::Failed
                };
                (
                    exit,
                    trouble.hint().unwrap_or("see `mana-proxy deploy status`"),
                )
            }
        };
        report::error(&with_sources(error), hint, exit, self.is_json, terminal)
    }
}

/// Text of others on one line.
fn one_line(text: &str) -> String {
    printable(text)
}

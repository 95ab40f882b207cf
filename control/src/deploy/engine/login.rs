//! The hands towards the registry: a login in a directory of its own, which is thrown away.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::{Engine, Token};
use crate::deploy::commands::{ENGINE_VARIABLE, Login};
use crate::deploy::hands::Trouble;
use crate::deploy::image::ImageName;
use crate::deploy::run::run;
use crate::deploy::steps::{Said, Step, StepState};

/// How long a logout may take, which asks nobody.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(30);

impl Engine<'_> {
    pub(super) async fn pull_with(
        &mut self,
        image: &ImageName,
        login: Option<Login<'_>>,
        patience: Duration,
    ) -> Result<(), Trouble> {
        let pull = self.commands().pull(&image.to_string(), login);
        let herald = &mut *self.herald;
        let ended = run(&pull, self.lock.as_ref(), None, patience, |line| {
            herald.say(Said::Step {
                deploy: None,
                step: Step::Pull,
                state: StepState::Goes,
                detail: line.to_owned(),
                took: None,
            });
        });
        ended.await?.checked(&pull).map(drop)
    }

    /// Logs in, pulls, logs out. The login is in a directory of its own, which is gone afterwards.
    pub(super) async fn pull_logged_in(
        &mut self,
        image: &ImageName,
        user: &str,
        token: &Token,
    ) -> Result<(), Trouble> {
        let deadline = Instant::now() + self.settings.pull_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let parent = login_parent(&self.settings.dir);
        let config = tempfile::Builder::new()
            .prefix(LOGIN_PREFIX)
            .tempdir_in(&parent);
        let config = config.map_err(|source| Trouble::Machine {
            what: format!(
                "cannot make a directory for the login in {}",
                parent.display()
            ),
            source,
        })?;
        let engine = self.engine_by_name(left()).await;
        let login = Login {
            config: config.path(),
            engine: engine.as_deref(),
        };
        let log_in = self.commands().login(login, user, image.registry());
        let ended = run(&log_in, None, Some(&token.0), left(), |_| {}).await?;
        let pulled = match ended.checked(&log_in) {
            Ok(_) => self.pull_with(image, Some(login), left()).await,
            Err(trouble) => Err(trouble),
        };
        let log_out = self.commands().logout(login, image.registry());
        // The directory goes in any case, and the login with it.
        run(&log_out, None, None, LOGOUT_TIMEOUT, |_| {}).await.ok();
        config.close().map_err(|source| Trouble::Machine {
            what: "cannot remove the login".to_owned(),
            source,
        })?;
        pulled
    }

    /// The engine that `docker` uses by itself, if neither the configuration nor the environment names one.
    pub(super) async fn engine_by_name(&self, patience: Duration) -> Option<String> {
        let is_named = std::env::var_os(ENGINE_VARIABLE).is_some_and(|engine| !engine.is_empty());
        if self.settings.engine.is_some() || is_named {
            return None;
        }
        let context = self.commands().context();
        // One that cannot say uses its default with a login and without.
        let ended = run(&context, None, None, patience, |_| {}).await.ok()?;
        let printed = ended.checked(&context).ok()?;
        let engine = printed.trim();
        (!engine.is_empty()).then(|| engine.to_owned())
    }
}

/// Removes logins that a deploy has left which was killed. Whoever calls holds the lock.
///
/// # Errors
/// One is there and cannot be removed, for example because another user has left it; all others were.
pub fn remove_left_logins(dir: &Path) -> io::Result<()> {
    let mut failure = None;
    for entry in std::fs::read_dir(login_parent(dir))? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(LOGIN_PREFIX)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            failure = failure.or(Some(error));
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Where the directory of a login is made: in the deploy directory, which only those who deploy may read.
fn login_parent(dir: &Path) -> PathBuf {
    dir.to_owned()
}

const LOGIN_PREFIX: &str = "login-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_that_were_left_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join("login-abc")).expect("left");
        std::fs::write(dir.path().join("login-abc/config.json"), "{}").expect("config");
        std::fs::write(dir.path().join("ledger.json"), "{}").expect("ledger");
        remove_left_logins(dir.path()).expect("removed");
        let left: Vec<_> = std::fs::read_dir(dir.path()).expect("dir").collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn one_that_cannot_be_removed_leaves_no_other_behind() {
        let dir = tempfile::tempdir().expect("dir");
        let login = |name: String| dir.path().join(format!("{LOGIN_PREFIX}{name}"));
        for n in 0..8 {
            std::fs::create_dir(login(format!("d{n}"))).expect("left");
            // No directory, which root cannot remove as one either. Which comes first is the file system's choice.
            std::fs::write(login(format!("f{n}")), "").expect("left");
        }
        remove_left_logins(dir.path()).expect_err("no directory");
        for n in 0..8 {
            assert!(!login(format!("d{n}")).exists());
        }
    }
}

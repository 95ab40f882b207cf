//! Running a command: its output line by line, a deadline, the lock as its stdin.
//!
//! Owns the process from its start to its end. What is run is made in `commands`.

use std::io::ErrorKind;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::deploy::commands::Invocation;
use crate::deploy::hands::Trouble;
use crate::deploy::lock::Lock;

/// The most that is read of what a command prints on each of its two ways; it is ended if it prints more.
pub const OUTPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Where the command line finds the registry's token. No command inherits it.
pub const TOKEN_VARIABLE: &str = "MANA_PROXY_REGISTRY_TOKEN";
/// What is shown of the last words of a command that failed.
const SAID_BYTES_MAX: usize = 1000;

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

/// Runs a command. `on_line` sees each line of its stdout as it comes.
///
/// # Errors
/// It could not be started, or did not end in time. How it ended is in [`Ended`].
///
/// # Cancel safety
/// Dropping it kills the command.
pub async fn run(
    invocation: &Invocation,
    lock: Option<&Lock>,
    input: Option<&str>,
    patience: Duration,
    on_line: impl FnMut(&str),
) -> Result<Ended, Trouble> {
    let failed = |said: String| Trouble::Engine {
        command: invocation.to_string(),
        said,
    };
    let Some((program, arguments)) = invocation.words.split_first() else {
        return Err(failed("is empty".to_owned()));
    };
    let stdin = match (lock, input) {
        (_, Some(_)) => Stdio::piped(),
        (Some(lock), None) if invocation.holds_lock => {
            let stdin = lock.as_stdin();
            stdin.map_err(|error| failed(format!("cannot be given the lock: {error}")))?
        }
        (_, None) => Stdio::null(),
    };
    let environment = invocation.environment.iter();
    let child = Command::new(program)
        .args(arguments)
        .envs(environment.map(|(name, value)| (name, value)))
        .env_remove(TOKEN_VARIABLE)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // What a terminal sends to interrupt is for the deploy, which puts things back.
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => failed(format!("cannot be started: there is no program {program}")),
        _ => failed(format!("cannot be started: {error}")),
    })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let talk = async {
        let feed = async {
            if let (Some(input), Some(mut stdin)) = (input, stdin) {
                // One that does not read it will say why it ended.
                stdin.write_all(input.as_bytes()).await.ok();
            }
        };
        let (_, stdout, stderr) = tokio::join!(feed, read(stdout, on_line), read(stderr, |_| {}));
        (child.wait().await, stdout, stderr)
    };
    match timeout(patience, talk).await {
        Ok((Ok(status), stdout, stderr)) => Ok(Ended {
            status,
            stdout,
            stderr,
        }),
        Ok((Err(error), ..)) => Err(failed(format!("was lost: {error}"))),
        Err(_) => Err(failed(format!(
            "did not end within {} s",
            patience.as_secs_f32()
        ))),
    }
}

/// Everything up to the end, or to [`OUTPUT_BYTES_MAX`].
async fn read(from: Option<impl AsyncRead + Unpin>, mut on_line: impl FnMut(&str)) -> String {
    let Some(from) = from else {
        return String::new();
    };
    let mut lines = BufReader::new(from.take(OUTPUT_BYTES_MAX));
    let (mut all, mut line) = (String::new(), Vec::new());
    // What breaks off was all that it said.
    while let Ok(1..) = lines.read_until(b'\n', &mut line).await {
        let text = String::from_utf8_lossy(&line);
        on_line(text.trim_end());
        all.push_str(&text);
        line.clear();
    }
    all
}

// === impl Ended ===

impl Ended {
    /// What it printed, if it succeeded.
    ///
    /// # Errors
    /// It did not; with its last words.
    pub fn checked(self, invocation: &Invocation) -> Result<String, Trouble> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let words = match self.stderr.trim() {
            "" => self.stdout.trim(),
            words => words,
        };
        let start = words.len().saturating_sub(SAID_BYTES_MAX);
        let words = &words[words.ceil_char_boundary(start)..];
        Err(Trouble::Engine {
            command: invocation.to_string(),
            said: format!("failed ({}): {}", self.status, one_line(words)),
        })
    }

    /// Whether it succeeded.
    pub fn is_success(&self) -> bool {
        self.status.success()
    }
}

/// Text of others on one line, without what could move a cursor.
pub fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let joined = lines.collect::<Vec<_>>().join(" | ");
    joined
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::lock::LockHolder;

    fn sh(script: &str) -> Invocation {
        Invocation {
            words: ["sh", "-c", script].map(str::to_owned).to_vec(),
            environment: vec![("GREETING".to_owned(), "hello".to_owned())],
            holds_lock: true,
        }
    }

    async fn outcome(script: &str) -> Result<String, String> {
        let command = sh(script);
        let ended = run(&command, None, None, Duration::from_secs(20), |_| {}).await;
        ended
            .and_then(|ended| ended.checked(&command))
            .map_err(|trouble| trouble.to_string())
    }

    #[tokio::test]
    async fn a_command_that_succeeds_gives_what_it_printed() {
        assert_eq!(
            outcome("echo $GREETING; echo noise >&2").await,
            Ok("hello\n".to_owned())
        );
        let mut seen = Vec::new();
        let command = sh("echo a; echo b");
        let ended = run(&command, None, None, Duration::from_secs(20), |line| {
            seen.push(line.to_owned())
        });
        assert!(ended.await.expect("ended").is_success());
        assert_eq!(seen, ["a", "b"]);
        let echoed = run(
            &sh("cat"),
            None,
            Some("secret"),
            Duration::from_secs(20),
            |_| {},
        )
        .await;
        assert_eq!(echoed.expect("ended").stdout, "secret");
    }

    #[tokio::test]
    async fn a_command_that_fails_says_which_and_why() {
        let error = outcome("echo one >&2; printf 'tw\\033[2Jo\\n' >&2; exit 3")
            .await
            .expect_err("failed");
        assert!(error.starts_with("`GREETING=hello sh -c"), "{error}");
        assert!(
            error.ends_with("failed (exit status: 3): one | tw [2Jo"),
            "{error}"
        );
        let error = outcome("echo only stdout; exit 1")
            .await
            .expect_err("failed");
        assert!(error.ends_with(": only stdout"), "{error}");
        let long = outcome("yes ü | head -c 9000 >&2; exit 1")
            .await
            .expect_err("failed");
        assert!(long.len() < 3 * SAID_BYTES_MAX, "{}", long.len());
        let none = Invocation {
            words: vec!["/nowhere/docker".to_owned()],
            ..sh("")
        };
        let error = run(&none, None, None, Duration::from_secs(20), |_| {})
            .await
            .expect_err("none")
            .to_string();
        assert!(
            error.contains("there is no program /nowhere/docker"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_or_stop_printing_is_ended() {
        let hangs = sh("exec sleep 600");
        let error = run(&hangs, None, None, Duration::from_millis(50), |_| {})
            .await
            .expect_err("hangs")
            .to_string();
        assert!(error.contains("did not end within 0.05 s"), "{error}");
        let floods = outcome("yes").await.expect_err("its pipe is closed");
        assert!(floods.contains("failed"), "{floods}");
    }

    #[tokio::test]
    async fn a_command_that_changes_containers_has_the_lock_as_its_stdin() {
        let dir = tempfile::tempdir().expect("dir");
        let holder = LockHolder {
            pid: 1,
            who: "ops".to_owned(),
            what: "deploy".to_owned(),
            since: "now".to_owned(),
        };
        let lock = Lock::take(dir.path(), &holder).expect("lock");
        let stdin = "readlink /proc/self/fd/0";
        for (holds_lock, path) in [(true, dir.path().join("lock")), (false, "/dev/null".into())] {
            let command = Invocation {
                holds_lock,
                ..sh(stdin)
            };
            let ended = run(&command, Some(&lock), None, Duration::from_secs(20), |_| {}).await;
            assert_eq!(
                ended.expect("ended").stdout.trim(),
                path.to_str().expect("path")
            );
        }
    }
}

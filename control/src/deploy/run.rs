//! Running a command: its output line by line, a deadline, the lock as its stdin.
//!
//! Owns the process from its start to its end, and those that it has started: `docker` runs compose as a child. What is run is
//! made in `commands`.

use std::io::ErrorKind;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
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
/// How long a command that was killed may take to be gone, with all that it has started. Only one that hangs in the kernel
/// takes longer; what changes containers has the lock for as long.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks whether it is gone.
const KILL_PAUSE: Duration = Duration::from_millis(2);
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
/// Dropping it kills the command and what it has started, and waits until that is gone.
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
    // Dropped before `child`, while the number is still its own.
    let mut group = Group::of(child.id());
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
        Ok((Ok(status), stdout, stderr)) => {
            group.forget();
            Ok(Ended {
                status,
                stdout,
                stderr,
            })
        }
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

/// The processes of a command: killed when this goes, unless the command has ended by itself.
struct Group(Option<Pid>);

// === impl Group ===

impl Group {
    /// Of a command that leads its own.
    fn of(leader: Option<u32>) -> Group {
        let leader = leader.and_then(|pid| i32::try_from(pid).ok());
        Group(leader.and_then(Pid::from_raw))
    }

    /// From here on the number may be somebody else's.
    fn forget(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        // Gone already is as good.
        kill_process_group(group, Signal::KILL).ok();
        let deadline = Instant::now() + KILL_PATIENCE;
        // What is next may undo what these were doing, and must not run beside them.
        while has_living(group) && Instant::now() < deadline {
            std::thread::sleep(KILL_PAUSE);
        }
    }
}

/// Whether any process of the group is left. One that is dead and not yet waited for is none; most are not our children.
fn has_living(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return false;
    };
    let stats = processes
        .flatten()
        .filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    stats
        .filter_map(|stat| state_and_group(&stat))
        .any(|(state, of)| of == group.as_raw_nonzero().get() && !"ZX".contains(state))
}

/// `4242 (a name (with) anything) S 1 4242 ...`: the state and the group of a process.
fn state_and_group(stat: &str) -> Option<(char, i32)> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(1)?.parse().ok()?))
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
    use std::cell::RefCell;

    use tokio::sync::Notify;

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

    /// A shell that has started another, which never ends by itself; both say their numbers.
    const FAMILY: &str = "sh -c 'echo $$; exec sleep 600' & echo $$; wait";

    fn is_alive(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| {
            state_and_group(&stat).is_some_and(|(state, _)| !"ZX".contains(state))
        })
    }

    #[tokio::test]
    async fn what_a_command_has_started_ends_with_it() {
        let command = sh(FAMILY);
        let patience = Duration::from_secs(600);
        for is_dropped in [true, false] {
            let (family, grown) = (RefCell::new(Vec::new()), Notify::new());
            let ended = run(&command, None, None, patience, |line| {
                family.borrow_mut().push(line.to_owned());
                grown.notify_one();
            });
            let is_there = async {
                while family.borrow().len() < 2 {
                    grown.notified().await;
                }
                if !is_dropped {
                    tokio::time::pause();
                    tokio::time::advance(patience).await;
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = is_there => {}
                ended = ended => assert!(ended.is_err()),
            }
            let family = family.take();
            assert_eq!(family.len(), 2);
            for pid in family {
                assert!(!is_alive(&pid), "{pid} is left");
            }
        }
    }

    #[test]
    fn a_name_cannot_be_mistaken_for_a_group() {
        let stat = "4242 (a) S 1 7 (b) R 1 99 0";
        assert_eq!(state_and_group(stat), Some(('R', 99)));
        for strange in ["", "4242 (a)", "4242 (a) S", "4242 (a) S 1 x"] {
            assert_eq!(state_and_group(strange), None);
        }
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

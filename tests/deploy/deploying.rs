//! One `mana-proxy deploy` as its caller sees it: started, followed step by step, signalled, killed, and what came of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::engine::signal;
use crate::support::within_time;

/// How long a deploy may take before the test has failed. Machines are slow and shared; compose alone takes seconds.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// One that is under way.
pub struct Deploying {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    events: Vec<Value>,
    stderr: PathBuf,
}

/// One that is over.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// Every line that it printed on stdout, the last one included.
    pub events: Vec<Value>,
    pub stderr: String,
}

// === impl Deploying ===

impl Deploying {
    /// Starts a command that prints one JSON object a line; stderr goes to a file.
    pub fn start(mut command: Command, stderr: &Path) -> Deploying {
        let mut child = command
            // As a shell gives one to each command.
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(stderr).unwrap())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        Deploying {
            child,
            lines: BufReader::new(stdout).lines(),
            events: Vec::new(),
            stderr: stderr.to_owned(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it was waited for")
    }

    /// Sends a signal by name to it alone; what it has started gets none.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Sends a signal to it and to what it has started in its process group, as a terminal does.
    pub fn signal_group(&self, name: &str) {
        let mut kill = std::process::Command::new("kill");
        let group = format!("-{}", self.pid());
        kill.args([&format!("-{name}"), "--", &group]);
        assert!(kill.status().unwrap().success());
    }

    /// Reads on until a step has begun, is done, or has failed. A panic if the command ends before.
    pub async fn until(&mut self, step: &str, state: &str) -> Value {
        let what = format!("{step} {state}");
        within_time(&what, DEADLINE, async {
            while let Some(event) = self.next().await {
                if event["step"] == step && event["state"] == state {
                    return event;
                }
            }
            let said = fs::read_to_string(&self.stderr).unwrap_or_default();
            panic!("it has ended before {what}: {:#?}\n{said}", self.events);
        })
        .await
    }

    async fn next(&mut self) -> Option<Value> {
        let line = self.lines.next_line().await.unwrap()?;
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("{error}: {line}");
        });
        self.events.push(event.clone());
        Some(event)
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Ended {
        within_time("the end of the command", DEADLINE, async {
            while self.next().await.is_some() {}
            let status = self.child.wait().await.unwrap();
            Ended {
                status,
                events: self.events,
                stderr: fs::read_to_string(&self.stderr).unwrap(),
            }
        })
        .await
    }

    /// Stops reading what it prints, and waits for its end.
    pub async fn deaf(self) -> ExitStatus {
        let Deploying {
            mut child, lines, ..
        } = self;
        drop(lines);
        let end = child.wait();
        within_time("the end of the command", DEADLINE, end)
            .await
            .unwrap()
    }

    /// Its stdin, where that is a pipe.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe, and not taken yet")
    }

    /// Kills it, and waits for its end. What it has started may go on, and hold its stdout: that is not read any more.
    pub async fn killed(mut self) {
        self.signal("KILL");
        let end = self.child.wait();
        within_time("the end of the command", DEADLINE, end)
            .await
            .unwrap();
    }
}

// === impl Ended ===

impl Ended {
    /// The last line: what came of it.
    pub fn result(&self) -> &Value {
        let last = self.events.last();
        let last = last.unwrap_or_else(|| panic!("it said nothing: {}", self.stderr));
        assert!(last["ok"].is_boolean(), "no result: {last}");
        last
    }

    /// The result of one that has to have this exit code and outcome.
    #[track_caller]
    pub fn assert(&self, code: i32, outcome: &str) -> &Value {
        let result = self.result();
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        assert_eq!(result["outcome"], outcome, "{self:#?}");
        assert_eq!(result["ok"], code == 0, "{self:#?}");
        result
    }

    /// Asserts that it was done.
    #[track_caller]
    pub fn assert_deployed(&self) -> &Value {
        self.assert(0, "deployed")
    }

    /// Asserts that it failed in a step with everything as before; the result, which says why and what to do.
    #[track_caller]
    pub fn assert_failed_at(&self, step: &str) -> &Value {
        let result = self.assert(1, "failed");
        assert_eq!(result["step"], step, "{self:#?}");
        assert!(result["hint"].is_string(), "{self:#?}");
        result
    }

    /// Asserts that words are in the error.
    #[track_caller]
    pub fn assert_says(&self, words: &[&str]) {
        let result = self.result();
        let said = format!("{} {} {}", result["error"], result["hint"], self.stderr);
        for word in words {
            assert!(said.contains(word), "no {word:?} in {self:#?}");
        }
    }

    /// The names of the steps that have begun, in their order.
    pub fn steps(&self) -> Vec<&str> {
        let begun = self.events.iter().filter(|event| event["state"] == "began");
        begun.filter_map(|event| event["step"].as_str()).collect()
    }
}

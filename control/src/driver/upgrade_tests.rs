//! Who writes before, during and after an upgrade.

use serde_json::Value;
use tokio::sync::Mutex;

use super::super::tests::{nowhere, number};
use super::*;
use crate::hooks::{Upgrader, Upgrading};
use crate::slot::Slot;
use crate::testing::Daemon;

/// An upgrade whose steps a test takes by hand.
struct ByHand {
    steps: Arc<Mutex<mpsc::Receiver<Step>>>,
    /// Told after each step whether it went well.
    done: mpsc::Sender<bool>,
}

enum Step {
    PutDown,
    Fail,
    Hand,
    Commit(bool),
}

struct Hand {
    steps: mpsc::Sender<Step>,
    done: mpsc::Receiver<bool>,
}

impl Hand {
    async fn begins(&mut self) {
        self.done.recv().await.expect("the upgrade begins");
    }

    async fn takes(&mut self, step: Step) -> bool {
        self.steps.send(step).await.expect("the upgrade waits");
        self.done.recv().await.expect("the upgrade goes on")
    }
}

fn by_hand() -> (Arc<ByHand>, Hand) {
    let (steps, waiting) = mpsc::channel(1);
    let (done, is_done) = mpsc::channel(4);
    let upgrader = ByHand {
        steps: Arc::new(Mutex::new(waiting)),
        done,
    };
    let hand = Hand {
        steps,
        done: is_done,
    };
    (Arc::new(upgrader), hand)
}

impl Upgrader for ByHand {
    fn upgrade(&self, _order: UpgradeOrder, _gone: oneshot::Receiver<()>, pen: Pen) -> Upgrading {
        let (steps, done) = (Arc::clone(&self.steps), self.done.clone());
        Box::pin(async move {
            done.send(true).await.expect("the test waits");
            loop {
                let step = steps.lock().await.recv().await.expect("a step");
                match step {
                    Step::PutDown => {
                        let is_down = pen.put_down().await;
                        done.send(is_down.is_ok()).await.expect("the test waits");
                        is_down?;
                    }
                    Step::Fail => {
                        done.send(true).await.expect("the test waits");
                        return Err(Reply::refusal(Code::Failed, "no luck"));
                    }
                    Step::Hand | Step::Commit(_) => break,
                }
            }
            done.send(true).await.expect("the test waits");
            let commit = move |entry: serde_json::Map<String, Value>| -> crate::hooks::Committing {
                Box::pin(async move {
                    assert_eq!(entry["verb"], "upgrade");
                    assert_eq!(entry["outcome"], "handed_over");
                    let step = steps.lock().await.recv().await.expect("a step");
                    done.send(true).await.expect("the test waits");
                    match step {
                        Step::Commit(true) => Ok(()),
                        _ => Err(Reply::refusal(Code::Failed, "gone")),
                    }
                })
            };
            Ok(Upgraded {
                reply: Reply::done().with("pid", 7),
                commit: Box::new(commit),
            })
        })
    }
}

async fn is_busy(daemon: &Daemon, line: &str) -> bool {
    daemon.ask(line).await.code() == Some(Code::Busy)
}

#[tokio::test]
async fn nobody_writes_between_the_two() {
    let (upgrader, mut hand) = by_hand();
    let daemon = Daemon::start_with_upgrader(&nowhere(), upgrader).await;
    let upgrade = tokio::spawn(daemon.ask("upgrade"));
    hand.begins().await;
    // Until the new process is prepared everything goes on.
    assert!(daemon.ask("switch green --force --no-wait").await.ok());
    assert!(is_busy(&daemon, "upgrade").await);
    assert!(hand.takes(Step::PutDown).await);
    for line in [
        "switch blue --force",
        "maintenance on",
        "pause",
        "reload",
        "certs renew",
    ] {
        let reply = daemon.ask(line).await;
        assert_eq!(reply.code(), Some(Code::Busy), "{line}");
        assert!(
            reply.error().expect("error").contains("upgrade"),
            "{reply:?}"
        );
    }
    assert!(daemon.ask("status").await.ok());
    assert!(hand.takes(Step::Hand).await);
    assert!(is_busy(&daemon, "maintenance on").await);
    assert!(!upgrade.is_finished());
    assert!(hand.takes(Step::Commit(true)).await);
    let reply = upgrade.await.expect("reply");
    assert_eq!(number(&reply, "pid"), 7);
    assert!(is_busy(&daemon, "maintenance on").await);
    // The lock is the other process's alone: it could be let go by it.
    let other = crate::state::StateDir::open(daemon.dir.path());
    assert!(other.is_ok(), "{other:?}");
    // What the other one publishes is followed and not stored.
    let stored = std::fs::read(daemon.dir.path().join("state.json")).expect("the state");
    let mut state = other.expect("free").load().expect("read").expect("stored");
    state.generation += 1;
    let site = state.sites.values_mut().next().expect("a site");
    (site.active, site.generation) = (Slot::Blue, state.generation);
    let entry = daemon.enter(Slot::Green);
    let host = state.sites.keys().next().expect("a site").clone();
    daemon.running.follow(state.clone(), vec![host]).await;
    daemon
        .until(|site| site.active == Slot::Blue && matches!(site.mode, Mode::Paused(_)))
        .await;
    daemon.running.follow(state.clone(), Vec::new()).await;
    daemon
        .until(|site| matches!(site.mode, Mode::Serving))
        .await;
    assert!(entry.is_closing());
    assert_eq!(
        number(&daemon.ask("status").await, "generation"),
        state.generation
    );
    let still = std::fs::read(daemon.dir.path().join("state.json")).expect("the state");
    assert_eq!(stored, still);
    drop(entry);
    daemon.stop().await;
}

#[tokio::test]
async fn an_upgrade_that_fails_gives_the_pen_back() {
    let (upgrader, mut hand) = by_hand();
    let daemon = Daemon::start_with_upgrader(&nowhere(), upgrader).await;
    for steps in [&[][..], &[Step::PutDown], &[Step::PutDown, Step::Hand]] {
        let upgrade = tokio::spawn(daemon.ask("upgrade --note again"));
        hand.begins().await;
        let mut last = Step::Fail;
        for step in steps {
            let step = match step {
                Step::PutDown => Step::PutDown,
                _ => {
                    last = Step::Commit(false);
                    Step::Hand
                }
            };
            assert!(hand.takes(step).await);
        }
        assert!(hand.takes(last).await);
        let reply = upgrade.await.expect("reply");
        assert_eq!(reply.code(), Some(Code::Failed), "{reply:?}");
        assert!(daemon.ask("maintenance on").await.ok());
        assert!(daemon.ask("maintenance off").await.ok());
    }
    let history = daemon.ask("history").await;
    let entries = history
        .field("entries")
        .and_then(Value::as_array)
        .expect("entries");
    let upgrades = entries.iter().filter(|entry| entry["verb"] == "upgrade");
    assert!(upgrades.clone().all(|entry| entry["outcome"] == "failed"));
    assert_eq!(upgrades.count(), 3);
    daemon.stop().await;
}

#[tokio::test]
async fn what_the_new_process_stored_before_it_failed_is_kept() {
    let (upgrader, mut hand) = by_hand();
    let daemon = Daemon::start_with_upgrader(&nowhere(), upgrader).await;
    let upgrade = tokio::spawn(daemon.ask("upgrade"));
    hand.begins().await;
    assert!(hand.takes(Step::PutDown).await);
    let path = daemon.dir.path().join("state.json");
    let text = std::fs::read_to_string(&path).expect("the state");
    let mut state = State::from_text(&text).expect("a state");
    let site = state.sites.values().next().expect("a site").clone();
    state.sites.insert("new.so".parse().expect("a host"), site);
    std::fs::write(&path, state.to_text()).expect("written");
    assert!(hand.takes(Step::Fail).await);
    assert!(!upgrade.await.expect("reply").ok());
    assert!(daemon.ask("maintenance on").await.ok());
    let text = std::fs::read_to_string(&path).expect("the state");
    let stored = State::from_text(&text).expect("a state");
    assert_eq!(stored.sites.len(), 2);
    assert!(stored.generation > state.generation);
    daemon.stop().await;
}

#[tokio::test]
async fn a_stop_waits_until_the_caller_of_an_upgrade_is_told() {
    let (upgrader, mut hand) = by_hand();
    let daemon = Daemon::start_with_upgrader(&nowhere(), upgrader).await;
    let upgrade = tokio::spawn(daemon.ask("upgrade"));
    hand.begins().await;
    assert!(hand.takes(Step::PutDown).await);
    assert!(hand.takes(Step::Hand).await);
    let stopping = tokio::spawn(daemon.stop());
    tokio::task::yield_now().await;
    assert!(hand.takes(Step::Commit(true)).await);
    let reply = upgrade.await.expect("reply");
    assert_eq!(number(&reply, "pid"), 7, "{reply:?}");
    stopping.await.expect("stopped");
}

#[tokio::test]
async fn a_pause_is_in_the_way() {
    let (upgrader, _hand) = by_hand();
    let daemon = Daemon::start_with_upgrader(&nowhere(), upgrader).await;
    assert!(daemon.ask("pause").await.ok());
    let reply = daemon.ask("upgrade").await;
    assert_eq!(reply.code(), Some(Code::Refused));
    assert!(reply.hint().expect("hint").contains("resume"));
    daemon.stop().await;
}

//! An outbox for tests, and what is in it.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use super::outbox::{Letter, Outbox};
use super::receiver::Receiver;
use super::render_tests::full;
use super::*;

/// Waits are over at once, failures of the test within its deadline.
pub(super) const QUICK: Patience = Patience {
    total: Duration::from_secs(20),
    request: Duration::from_secs(20),
    first: Duration::from_millis(2),
    longest: Duration::from_millis(10),
    asked_max: Duration::from_secs(3600),
};

/// Whatever fails is left to the next sender at once.
pub(super) const ONCE: Patience = Patience {
    first: Duration::from_secs(3600),
    longest: Duration::from_secs(3600),
    ..QUICK
};

pub(super) fn to(kind: Kind, url: &str) -> Destination {
    Destination {
        kind,
        url: Source::Inline(Secret::new(url)),
        secret: None,
        on: Event::ALL.to_vec(),
        ca_root: None,
    }
}

pub(super) fn slack_at(receiver: &Receiver) -> Destination {
    to(
        Kind::Slack,
        &format!("http://{}/TOKENTOKEN", receiver.address),
    )
}

/// A directory with an outbox in it.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Place {
        Place {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn outbox(&self) -> PathBuf {
        self.dir.path().join("outbox")
    }

    pub(super) fn put(&self, destinations: &[Destination], events: &[Event]) {
        for event in events {
            let count = put(&self.outbox(), destinations, &full(*event)).unwrap();
            assert_eq!(count, destinations.len());
        }
    }

    pub(super) async fn send(&self, destinations: &[Destination], patience: Patience) -> Sent {
        let outbox = self.outbox();
        let sending = send(&outbox, destinations, patience);
        let sent = tokio::time::timeout(Duration::from_secs(60), sending).await;
        sent.expect("a sender that ends").unwrap()
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.outbox()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| !path.ends_with(".lock")).collect()
    }

    /// Changes what is in the one file of the outbox.
    pub(super) fn change(&self, change: impl FnOnce(&mut Letter)) {
        let outbox = Outbox::open(&self.outbox()).unwrap();
        let name = outbox.names().unwrap().pop_first().unwrap();
        let mut letter = outbox.read(&name).unwrap().unwrap();
        change(&mut letter);
        outbox.write(&name, &letter).unwrap();
    }

    pub(super) async fn wait_until(&self, is_so: impl Fn(&[Waiting]) -> bool) {
        let look = async {
            while !is_so(&waiting(&self.outbox()).unwrap()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let looked = tokio::time::timeout(Duration::from_secs(20), look).await;
        looked.expect("the outbox changes in time");
    }
}

/// Of the bodies of Slack.
pub(super) fn statuses(receiver: &Receiver) -> Vec<String> {
    let seen = receiver.seen();
    let bodies = seen.iter().map(|seen| {
        let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
        body["text"].as_str().unwrap().to_owned()
    });
    bodies.collect()
}

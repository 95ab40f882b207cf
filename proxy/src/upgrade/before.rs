//! The process before this one, while it drains: what it still has, and what it is told.
//!
//! Owns the successor's view of its predecessor: `status` shows it, a drain waits for its requests too, and what is
//! published here is passed on, so that its connections follow a switch. Without a predecessor all of it is nothing.

use std::pin::Pin;
use std::sync::Arc;

use mana_control::hooks::{Drained, Predecessor};
use mana_control::state::State;
use mana_control::{Host, Slot};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::channel::Channel;
use super::message::{Down, Left, Up};
use super::{ORDERS_MAX, REPORT_TIME};

/// The process before this one, if it is still there.
#[derive(Debug)]
pub struct Before {
    seen: watch::Sender<Option<Seen>>,
    orders: mpsc::Sender<Up>,
}

/// Who it is, and what it has said last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    pid: u32,
    version: String,
    left: Left,
}

/// Carries messages to and from a predecessor.
#[derive(Debug)]
pub struct Courier {
    before: Arc<Before>,
    orders: mpsc::Receiver<Up>,
}

impl Before {
    /// No predecessor yet, and who carries messages once there is one.
    pub fn nobody() -> (Arc<Before>, Courier) {
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        let before = Arc::new(Before {
            seen: watch::Sender::new(None),
            orders,
        });
        let courier = Courier {
            before: Arc::clone(&before),
            orders: waiting,
        };
        (before, courier)
    }

    /// The field of `status`; null if there is none.
    pub fn status(&self) -> Value {
        let seen = self.seen.borrow();
        let Some(Seen { pid, version, left }) = &*seen else {
            return Value::Null;
        };
        let sites: Vec<Value> = left
            .in_flight
            .iter()
            .map(|(host, [blue, green])| json!({"host": host, "blue": blue, "green": green}))
            .collect();
        json!({
            "pid": pid,
            "version": version,
            "requests": left.requests(),
            "tunnels": left.tunnels,
            "connections": left.connections,
            "at_most_s": left.at_most_ms.div_ceil(1000),
            "in_flight": sites,
        })
    }

    /// `pid 42, version 0.1.0, 3 requests, 1 websockets, at most 55m`; none if there is no predecessor.
    pub fn in_words(&self) -> Option<String> {
        let seen = self.seen.borrow();
        let Seen { pid, version, left } = seen.as_ref()?;
        let (requests, tunnels) = (left.requests(), left.tunnels);
        let connections = left.connections;
        let at_most = left.at_most_ms.div_ceil(1000);
        Some(format!(
            "pid {pid}, version {version}, {requests} requests, {tunnels} websockets, {connections} connections, at most {at_most} s more"
        ))
    }

    /// Resolves when there is no predecessor. It has a deadline of its own.
    pub async fn gone(&self) {
        let mut seen = self.seen.subscribe();
        // The sender is this value.
        seen.wait_for(Option::is_none).await.ok();
    }

    /// Resolves when the predecessor has said what it has, or is gone.
    async fn reported(&self) {
        let mut seen = self.seen.subscribe();
        let has_reported = |seen: &Option<Seen>| {
            // Generations begin at 1.
            seen.as_ref().is_none_or(|seen| seen.left.generation > 0)
        };
        // The sender is this value.
        seen.wait_for(has_reported).await.ok();
    }

    fn order(&self, order: Up) {
        if self.seen.borrow().is_some() && self.orders.try_send(order).is_err() {
            tracing::warn!(
                "the process before is not told of a change; a drain may wait for its deadline"
            );
        }
    }
}

impl Predecessor for Before {
    fn follow(&self, state: &State, paused: &[Host]) {
        let paused = paused.iter().map(Host::to_string).collect();
        let state = state.to_text();
        self.order(Up::Follow { state, paused });
    }

    fn in_flight(&self, host: &Host, slot: Slot) -> usize {
        let seen = self.seen.borrow();
        let count = seen.as_ref().map_or(0, |seen| seen.left.of(host, slot));
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    fn drained(&self, host: &Host, slot: Slot, generation: u64) -> Drained {
        let (mut seen, host) = (self.seen.subscribe(), host.clone());
        let waiting: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let is_drained = |seen: &Option<Seen>| {
                seen.as_ref().is_none_or(|seen| {
                    seen.left.generation >= generation && seen.left.of(&host, slot) == 0
                })
            };
            // Nobody is there any more if the sender is not.
            seen.wait_for(is_drained).await.ok();
        });
        waiting
    }

    fn cut_tunnels(&self, host: &Host, slot: Slot) {
        let host = host.to_string();
        self.order(Up::CutTunnels { host, slot });
    }
}

impl Courier {
    /// From now on there is a predecessor, at the other end of this channel. Returns once it has said what it has, so that
    /// nobody is told before that a slot is empty.
    pub async fn meet(self, pid: u32, version: String, left: Left, channel: Channel) {
        let before = Arc::clone(&self.before);
        before.seen.send_replace(Some(Seen { pid, version, left }));
        tokio::spawn(self.carry(channel));
        if timeout(REPORT_TIME, before.reported()).await.is_err() {
            tracing::warn!("the process before does not say what it has");
        }
    }

    /// Carries messages until the predecessor is gone.
    async fn carry(mut self, channel: Channel) {
        loop {
            tokio::select! {
                received = channel.receive() => match received {
                    Ok(Some(message)) => self.take_in(&message.bytes),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "the process before is not understood");
                        break;
                    }
                },
                Some(order) = self.orders.recv() => {
                    // One that is gone is found gone above.
                    channel.send(&order, &[]).await.ok();
                }
            }
        }
        self.before.seen.send_replace(None);
        tracing::info!("the process before has ended");
    }

    fn take_in(&self, bytes: &[u8]) {
        let Ok(Down::Left(left)) = serde_json::from_slice(bytes) else {
            tracing::warn!("the process before says something that is not understood");
            return;
        };
        self.before.seen.send_if_modified(|seen| match seen {
            Some(seen) if seen.left != left => {
                seen.left = left;
                true
            }
            Some(_) | None => false,
        });
    }
}

impl Left {
    /// Requests, without tunnels.
    fn requests(&self) -> u64 {
        let all: u64 = self
            .in_flight
            .iter()
            .map(|(_, [blue, green])| blue + green)
            .sum();
        all.saturating_sub(self.tunnels)
    }

    fn of(&self, host: &Host, slot: Slot) -> u64 {
        let site = self
            .in_flight
            .iter()
            .find(|(name, _)| name == host.as_str());
        site.map_or(0, |(_, slots)| slots[slot.index()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(generation: u64, blue: u64) -> Left {
        Left {
            generation,
            connections: 1,
            tunnels: 0,
            in_flight: vec![("a.so".to_owned(), [blue, 0])],
            at_most_ms: 1500,
        }
    }

    #[tokio::test]
    async fn a_slot_is_drained_once_the_predecessor_has_followed_and_has_none_in_it() {
        let host: Host = "a.so".parse().expect("a host");
        let (before, courier) = Before::nobody();
        before.drained(&host, Slot::Blue, 7).await;
        let (here, there) = Channel::pair().expect("a pair");
        let there = Channel::on(there).expect("its other end");
        let meeting = courier.meet(42, "0.1.0".to_owned(), Left::default(), here);
        let reporting = async {
            let report = Down::Left(left(6, 0));
            there.send(&report, &[]).await.expect("sent");
        };
        tokio::join!(meeting, reporting);
        assert_eq!(before.status()["connections"], 1);
        let drained = tokio::spawn(before.drained(&host, Slot::Blue, 7));
        for (generation, blue) in [(6, 1), (7, 1)] {
            let report = Down::Left(left(generation, blue));
            there.send(&report, &[]).await.expect("sent");
        }
        let mut seen = before.seen.subscribe();
        seen.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.left.generation == 7))
            .await
            .expect("reported");
        assert_eq!(before.in_flight(&host, Slot::Blue), 1);
        assert!(!drained.is_finished());
        assert!(before.in_words().expect("there").contains("pid 42"));
        there
            .send(&Down::Left(left(7, 0)), &[])
            .await
            .expect("sent");
        drained.await.expect("drained");
        before.cut_tunnels(&host, Slot::Green);
        let order = there.receive().await.expect("received").expect("one");
        assert!(matches!(
            serde_json::from_slice(&order.bytes),
            Ok(Up::CutTunnels { .. })
        ));
        drop(there);
        before.gone().await;
        assert_eq!(before.status(), Value::Null);
    }
}

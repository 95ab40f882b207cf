//! The predecessor after it has handed over: it finishes what it has, reports it, and follows the successor.
//!
//! Owns the way from the handover to the end of the process. Nothing is cut for the sake of a quick end: connections at
//! rest stay as long as they would, tunnels and downloads until `server.upgrade_deadline`. Then, or when a signal asks for
//! it, or when the successor dies, the end is that of any stop.

use std::time::Duration;

use mana_control::state::State;
use mana_control::{Caller, Host, Reply, Request, Running, Verb};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::REPORT_EVERY;
use super::channel::Channel;
use super::message::{Down, Left, Up};
use crate::front::{self, Joined};
use crate::signals::Signals;
use crate::worker::{Phase, Shared};

/// How long what is left may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// `server.upgrade_deadline`
    pub upgrade: Duration,
    /// `server.shutdown_deadline`, once that is over
    pub shutdown: Duration,
}

/// Returns once nothing is left, or a deadline has passed.
pub async fn linger(
    phase: &watch::Sender<Phase>,
    shared: &Shared,
    running: &Running,
    channel: Channel,
    (mut joined, signals, deadlines): (Joined, &mut Signals, Deadlines),
) {
    let until = Instant::now() + deadlines.upgrade;
    let mut reports = tokio::time::interval(REPORT_EVERY);
    reports.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tracing::info!(
        connections = shared.connections.open(),
        "finishing what is left"
    );
    loop {
        tokio::select! {
            _ = &mut joined => {
                tracing::info!("nothing is left");
                return;
            }
            () = tokio::time::sleep_until(until) => {
                tracing::warn!("the deadline of the upgrade passed");
                break;
            }
            () = signals.until_stop(&running.handle, shared) => break,
            received = channel.receive() => match received {
                Ok(Some(message)) => obey(running, &message.bytes).await,
                // Nobody serves now, and the service manager does not start another while this process is there: the
                // successor is our child and not its own, so that its end is noticed at the end of ours.
                Ok(None) | Err(_) => {
                    tracing::error!("the new process has ended; making way for another");
                    break;
                }
            },
            _ = reports.tick() => {}
        }
        let report = Down::Left(left(running, until).await);
        // One that is gone is found gone above.
        channel.send(&report, &[]).await.ok();
    }
    front::stop(phase, shared, joined, deadlines.shutdown).await;
}

async fn obey(running: &Running, bytes: &[u8]) {
    match serde_json::from_slice(bytes) {
        Ok(Up::Follow { state, paused }) => match State::from_text(&state) {
            Some(state) => {
                let paused = paused.iter().filter_map(|host| host.parse().ok());
                running.follow(state, paused.collect()).await;
            }
            None => tracing::warn!("the successor's state is not understood"),
        },
        Ok(Up::CutTunnels { host, slot }) => {
            if let Ok(host) = host.parse::<Host>() {
                running.cut_tunnels(host, slot).await;
            }
        }
        Ok(Up::Prepared { .. } | Up::Failed { .. } | Up::Ready | Up::Serving) | Err(_) => {
            tracing::warn!("the successor says something that is not understood");
        }
    }
}

/// What is still here, as the driver sees it. It has followed whatever it was told before.
async fn left(running: &Running, until: Instant) -> Left {
    let caller = Caller::this_process("handover");
    let reply = running
        .handle
        .call(Request::new(Verb::Status), caller, None)
        .await;
    let at_most = until.saturating_duration_since(Instant::now());
    let number = |name| reply.field(name).and_then(Value::as_u64).unwrap_or(0);
    Left {
        generation: number("generation"),
        connections: number("connections"),
        tunnels: number("tunnels"),
        in_flight: in_flight(&reply),
        at_most_ms: u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX),
    }
}

fn in_flight(status: &Reply) -> Vec<(String, [u64; 2])> {
    let sites = status.field("sites").and_then(Value::as_array);
    let sites = sites.into_iter().flatten();
    let of = |site: &Value, slot| site["slots"][slot]["in_flight"].as_u64().unwrap_or(0);
    sites
        .filter_map(|site| {
            let host = site["host"].as_str()?;
            Some((host.to_owned(), [of(site, "blue"), of(site, "green")]))
        })
        .collect()
}

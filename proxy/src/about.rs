//! What the proxy adds to `status`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mana_control::hooks::StatusExtra;
use serde_json::{Map, Value, json};

use crate::run::Bound;
use crate::upgrade::before::Before;
use crate::worker::Shared;

/// Version, process, listeners, connections.
pub struct About {
    shared: Arc<Shared>,
    bound: Bound,
    workers: usize,
    started: Instant,
    before: Arc<Before>,
}

impl About {
    /// `bound` is where it listens.
    pub fn new(shared: &Arc<Shared>, bound: &Bound, workers: usize, before: Arc<Before>) -> About {
        About {
            shared: Arc::clone(shared),
            bound: bound.clone(),
            workers,
            started: Instant::now(),
            before,
        }
    }
}

impl StatusExtra for About {
    fn add(&self, status: &mut Map<String, Value>) {
        let text = |list: &[SocketAddr]| -> Vec<String> {
            list.iter().map(SocketAddr::to_string).collect()
        };
        let listen = json!({
            "http": text(&self.bound.http),
            "https": text(&self.bound.https),
            "admin": self.bound.admin.map(|address| address.to_string()),
        });
        let fields = [
            ("version", json!(env!("CARGO_PKG_VERSION"))),
            ("pid", json!(std::process::id())),
            ("uptime_s", json!(self.started.elapsed().as_secs())),
            ("workers", json!(self.workers)),
            ("connections", json!(self.shared.connections.open())),
            ("tunnels", json!(self.shared.metrics.tunnels_open())),
            ("listen", listen),
            ("predecessor", self.before.status()),
        ];
        for (name, value) in fields {
            status.insert(name.to_owned(), value);
        }
    }
}

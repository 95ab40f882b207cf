//! Values that several tests need. Not in the shipped crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::slot::Slot;
use crate::table::{DrainLimits, HealthCheck, PauseLimits, SiteSettings};
use crate::upstream::Upstream;

/// A site with one upstream in each slot, short times and k of n = 2 of 3.
pub fn settings(host: &str, blue: &str, green: &str) -> SiteSettings {
    SiteSettings {
        host: host.parse().expect("host"),
        aliases: Vec::new(),
        initial: Slot::Blue,
        upstreams: [vec![blue.to_owned()], vec![green.to_owned()]],
        health: check(),
        drain: DrainLimits {
            requests: Duration::from_secs(30),
            tunnels: Duration::from_secs(10),
        },
        pause: PauseLimits {
            waiting_max: 10,
            wait_max: Duration::from_secs(5),
            spread: Duration::from_millis(100),
        },
        strict_transport_security: None,
    }
}

/// `GET /api/ping`, 200, 2 of 3.
pub fn check() -> HealthCheck {
    HealthCheck {
        path: "/api/ping".to_owned(),
        host: "mana.so".to_owned(),
        method: "GET".to_owned(),
        expect: 200,
        interval: Duration::from_secs(5),
        timeout: Duration::from_millis(500),
        pass: 2,
        of: 3,
    }
}

/// An upstream that answers each connection with the next of some statuses, the last one for ever.
pub struct Backend {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    /// Listens on a free port of the loopback.
    pub async fn start(statuses: &'static [u16]) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let task = tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.expect("accept");
                let status = statuses[number.min(statuses.len() - 1)];
                let answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n\r\n");
                let mut request = [0; 4096];
                // A caller that goes away is none of our business here.
                if stream.read(&mut request).await.is_ok() {
                    stream.write_all(answer.as_bytes()).await.ok();
                }
            }
        });
        Backend { address, task }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn upstream(&self) -> Arc<Upstream> {
        Upstream::new(self.address(), vec![self.address])
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

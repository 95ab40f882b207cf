//! Values that several tests need. Not in the shipped crate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::caller::{Allowed, Caller};
use crate::hooks::{NoHooks, Reloader, Upgrader};
use crate::inflight::Entry;
use crate::reply::Reply;
use crate::server::SocketOptions;
use crate::slot::Slot;
use crate::start::{Running, ServeOptions, open};
use crate::table::{DrainLimits, HealthCheck, PauseLimits, Site, SiteSettings};
use crate::upstream::Upstream;
use crate::wire::Request;

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
        only_trusted: false,
        response_fields: crate::table::ResponseFields::default(),
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

/// A whole control side in a directory of its own.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    pub running: Running,
}

impl Daemon {
    pub async fn start(sites: &[SiteSettings]) -> Daemon {
        Daemon::start_with(sites, Arc::new(NoHooks)).await
    }

    pub async fn start_with(sites: &[SiteSettings], reloader: Arc<dyn Reloader>) -> Daemon {
        Daemon::start_in(tempfile::tempdir().expect("dir"), sites, reloader).await
    }

    pub async fn start_in(
        dir: tempfile::TempDir,
        sites: &[SiteSettings],
        reloader: Arc<dyn Reloader>,
    ) -> Daemon {
        Daemon::start_as(dir, sites, reloader, Arc::new(NoHooks)).await
    }

    pub async fn start_with_upgrader(
        sites: &[SiteSettings],
        upgrader: Arc<dyn Upgrader>,
    ) -> Daemon {
        let dir = tempfile::tempdir().expect("dir");
        Daemon::start_as(dir, sites, Arc::new(NoHooks), upgrader).await
    }

    async fn start_as(
        dir: tempfile::TempDir,
        sites: &[SiteSettings],
        reloader: Arc<dyn Reloader>,
        upgrader: Arc<dyn Upgrader>,
    ) -> Daemon {
        let opened = open(dir.path(), sites).expect("opened");
        let options = ServeOptions {
            socket: SocketOptions {
                path: dir.path().join("socket"),
                gid: None,
                allowed: Allowed::default(),
            },
            reloader,
            status_extra: Arc::new(NoHooks),
            certificates: Arc::new(NoHooks),
            upgrader,
            predecessor: Arc::new(NoHooks),
        };
        let running = opened.serve(options).await.expect("served");
        Daemon { dir, running }
    }

    /// Ends it, shows that nothing is left but the state, and gives the directory back.
    pub async fn stop(self) -> tempfile::TempDir {
        self.running.stop().await;
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path())
            .expect("list")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("name")
            })
            .collect();
        names.sort();
        assert_eq!(names, ["journal.jsonl", "lock", "state.json"]);
        self.dir
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The reply to one line, as a caller called `test` gets it.
    pub fn ask(&self, line: &str) -> impl Future<Output = Reply> + Send + 'static {
        let request = Request::parse(line.as_bytes()).expect("request");
        let handle = self.running.handle.clone();
        async move {
            handle
                .call(request, Caller::this_process("test"), None)
                .await
        }
    }

    /// The first site as it is published.
    pub fn site(&self) -> Arc<Site> {
        Arc::clone(&self.running.published.load().sites()[0])
    }

    /// A request in this slot, by the table of now.
    pub fn enter(&self, slot: Slot) -> Entry {
        self.site().slot(slot).inflight.enter().expect("open")
    }

    /// Waits until the site is as wanted.
    pub async fn until(&self, what: impl Fn(&Site) -> bool) {
        let seen = async {
            while !what(&self.site()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen)
            .await
            .expect("in time");
    }
}

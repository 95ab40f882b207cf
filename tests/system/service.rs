//! mana-proxy as it is installed in a container: its files, its unit, its verbs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Output;

use crate::container::Container;
use crate::support::{ConfigBuilder, HOST, Upstream, eventually};

pub const CONFIG: &str = "/etc/mana-proxy/mana-proxy.toml";

/// The service, the container that it is in, and two upstreams outside of it.
pub struct Service {
    pub container: Container,
    /// Blue and green.
    upstreams: [Upstream; 2],
    pub config: ConfigBuilder,
    http: SocketAddr,
    pub https: SocketAddr,
}

// === impl Service ===

impl Service {
    /// A container with the package in it, as `dpkg -i` leaves it. What it said, too.
    pub async fn install() -> (Service, String) {
        let container = Container::boot().await;
        for package in ["mana-proxy.deb", "mana-proxy-next.deb"] {
            let from = packages().join(package);
            fs::copy(&from, container.path("root").join(package))
                .unwrap_or_else(|error| panic!("{}: {error}; make test-system", from.display()));
        }
        let said = container.done(&["dpkg", "--install", "/root/mana-proxy.deb"]);
        let upstreams = [
            Upstream::start("blue").await,
            Upstream::start("green").await,
        ];
        let [blue, green] = [0, 1].map(|slot: usize| upstreams[slot].address());
        let (http, https) = (free_address(), free_address());
        let mut config = ConfigBuilder::new(&[&blue], &[&green]);
        config
            .set("listen", "http", &format!("[{:?}]", http.to_string()))
            .set("listen", "https", &format!("[{:?}]", https.to_string()))
            .set("control", "socket", r#""/run/mana-proxy/control.sock""#)
            .set("state", "dir", r#""/var/lib/mana-proxy""#)
            .set(
                "admin",
                "listen",
                &format!("{:?}", free_address().to_string()),
            )
            .set("access_log", "to", r#""off""#)
            // Websockets are closed after half of it, and each restart waits for that.
            .shutdown_deadline("2s")
            // The process before keeps its websockets for so long, and there is one such process at a time.
            .set("server", "upgrade_deadline", r#""2s""#);
        // So does a switch.
        config.site().drain("2s", "500ms");
        let service = Service {
            container,
            upstreams,
            config,
            http,
            https,
        };
        (service, said)
    }

    /// The upstream of the green slot.
    pub fn green(&self) -> &Upstream {
        &self.upstreams[1]
    }

    /// Puts the configuration in place, and has the socket unit listen where it says.
    pub fn configure(&self) {
        self.container.write(CONFIG, &self.config.text());
        let drop_in = format!(
            "[Socket]\nListenStream=\nListenStream={}\nListenStream={}\n",
            self.http, self.https
        );
        let path = "/etc/systemd/system/mana-proxy.socket.d/ports.conf";
        self.container.write(path, &drop_in);
        self.systemctl(&["daemon-reload"]);
    }

    /// `systemctl ...`, which has to succeed.
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        let command: Vec<&str> = std::iter::once("systemctl")
            .chain(arguments.iter().copied())
            .collect();
        self.container.done(&command)
    }

    /// `mana-proxy ...`
    pub fn mana_proxy(&self, arguments: &[&str]) -> Output {
        let command: Vec<&str> = std::iter::once("mana-proxy")
            .chain(arguments.iter().copied())
            .collect();
        self.container.run(&command)
    }

    /// A property of the service.
    pub fn property(&self, name: &str) -> String {
        let property = format!("--property={name}");
        let shown = self.systemctl(&["show", "--value", &property, "mana-proxy.service"]);
        shown.trim().to_owned()
    }

    /// The process that systemd takes for the service.
    pub fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().unwrap()
    }

    /// Every process of the service, as the container counts them.
    pub fn processes(&self) -> Vec<u32> {
        let group = self.property("ControlGroup");
        // Where the hierarchies of the kernel are mixed, systemd's has a name.
        let script = format!(
            "cd /sys/fs/cgroup; cat ./{group}/cgroup.procs || cat systemd/{group}/cgroup.procs"
        );
        let listed = self.container.done(&["sh", "-c", &script]);
        let pids = listed.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.collect()
    }

    /// Waits until systemd has one active process, which is another than `old`.
    pub async fn wait_for_another_than(&self, old: u32) {
        eventually("another process serves", async || {
            let pid = self.main_pid();
            pid != 0 && pid != old && self.property("ActiveState") == "active"
        })
        .await;
    }

    /// Waits until the processes of earlier upgrades are gone.
    pub async fn wait_until_alone(&self) {
        eventually("one process is left", async || {
            self.processes() == [self.main_pid()]
        })
        .await;
    }

    /// `systemd-analyze security`: 0 is closed, 10 is open.
    pub fn exposure(&self) -> f64 {
        let command = [
            "systemd-analyze",
            "security",
            "--no-pager",
            "mana-proxy.service",
        ];
        let said = self.container.done(&command);
        let line = said
            .lines()
            .find(|line| line.contains("Overall exposure level"));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        let level = line.split(": ").nth(1).unwrap().split(' ').next().unwrap();
        level.parse().unwrap()
    }
}

/// Where `make test-system` puts the packages.
fn packages() -> PathBuf {
    let directory = std::env::var_os("MANA_PROXY_PACKAGES");
    PathBuf::from(directory.expect("MANA_PROXY_PACKAGES; use make test-system"))
}

/// A port of loopback that nobody has now. The container binds it a moment later.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// A request that the upstream does not answer yet.
pub fn held_request() -> String {
    format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n")
}

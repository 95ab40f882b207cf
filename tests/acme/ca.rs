//! `pebble` and its resolver, started on ports of their own, and a small CA for the servers' own certificates.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::support::client::tls::{Offer, connect};
use crate::support::{H1, eventually};

/// What is different about one pebble.
#[derive(Clone, Default)]
pub struct Knobs {
    pub environment: Vec<(&'static str, &'static str)>,
    /// Key identifier and key, if accounts must be bound.
    pub eab: Option<(&'static str, &'static str)>,
}

/// A running pebble.
pub struct Pebble {
    pub address: SocketAddr,
    management: SocketAddr,
    resolver: SocketAddr,
    resolver_management: SocketAddr,
    http: u16,
    https: u16,
    knobs: Knobs,
    directory: TempDir,
    children: Vec<Child>,
}

/// The certificate that pebble and the double answer with, and the root to trust for it.
pub struct Identity {
    pub root: String,
    pub chain: String,
    pub key: String,
}

// === impl Pebble ===

impl Pebble {
    /// A pebble that validates at these ports.
    pub async fn start(http: u16, https: u16, identity: &Identity, knobs: Knobs) -> Pebble {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cert.pem"), &identity.chain).unwrap();
        std::fs::write(directory.path().join("key.pem"), &identity.key).unwrap();
        let mut pebble = Pebble {
            address: local(free_port()),
            management: local(free_port()),
            resolver: local(free_port()),
            resolver_management: local(free_port()),
            http,
            https,
            knobs,
            directory,
            children: Vec::new(),
        };
        pebble.spawn().await;
        pebble
    }

    /// Starts it anew: with other roots, and without any account that it knew.
    pub async fn forget_everything(&mut self) {
        self.stop().await;
        self.spawn().await;
    }

    /// Ends it.
    pub async fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            child.kill().await.unwrap();
        }
    }

    /// The root of what it issues.
    pub async fn root(&self) -> String {
        let stream = connect(self.management, &Offer::h1("localhost"))
            .await
            .unwrap();
        let response = H1::over(stream).get("/roots/0").await;
        assert_eq!(response.status, 200);
        response.text()
    }

    /// Lets a name lead elsewhere.
    pub async fn resolve(&self, name: &str, address: &str) {
        let body = format!(r#"{{"host":"{name}","addresses":["{address}"]}}"#);
        let mut client = H1::plain(self.resolver_management).await;
        for path in ["/clear-a", "/add-a"] {
            let response = client.request("POST", path, "", body.as_bytes()).await;
            assert_eq!(response.status, 200);
        }
    }

    async fn spawn(&mut self) {
        let (eab_required, keys) = match self.knobs.eab {
            Some((kid, key)) => (true, format!(r#""{kid}":"{key}""#)),
            None => (false, String::new()),
        };
        let config = format!(
            r#"{{"pebble":{{"listenAddress":"{}","managementListenAddress":"{}","certificate":"cert.pem",
            "privateKey":"key.pem","httpPort":{},"tlsPort":{},"ocspResponderURL":"",
            "externalAccountBindingRequired":{eab_required},"externalAccountMACKeys":{{{keys}}}}}}}"#,
            self.address, self.management, self.http, self.https
        );
        std::fs::write(self.directory.path().join("pebble.json"), config).unwrap();
        let resolver = self.resolver.to_string();
        let management = self.resolver_management.to_string();
        let dns = [
            ("-dns01", resolver.as_str()),
            ("-management", &management),
            ("-defaultIPv4", "127.0.0.1"),
            ("-defaultIPv6", ""),
            ("-http01", ""),
            ("-https01", ""),
            ("-tlsalpn01", ""),
        ];
        let dns: Vec<&str> = dns
            .iter()
            .flat_map(|(name, value)| [*name, *value])
            .collect();
        let child = run("pebble-challtestsrv", &dns, &[], self.directory.path());
        self.children.push(child);
        listening(self.resolver_management).await;
        let mut environment = vec![
            ("PEBBLE_VA_NOSLEEP", "1"),
            ("PEBBLE_WFE_NONCEREJECT", "5"),
            ("PEBBLE_AUTHZREUSE", "0"),
        ];
        environment.extend(self.knobs.environment.iter().copied());
        let arguments = ["-config", "pebble.json", "-dnsserver", &resolver];
        let child = run("pebble", &arguments, &environment, self.directory.path());
        self.children.push(child);
        listening(self.address).await;
        listening(self.management).await;
    }
}

fn run(name: &str, arguments: &[&str], environment: &[(&str, &str)], directory: &Path) -> Child {
    let log = std::fs::File::create(directory.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(name);
    command
        .args(arguments)
        .envs(
            environment
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .copied(),
        )
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true);
    for (name, _) in environment.iter().filter(|(_, value)| value.is_empty()) {
        command.env_remove(name);
    }
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}; `make test` installs it"))
}

async fn listening(address: SocketAddr) {
    eventually(&format!("{address} listens"), async || {
        TcpStream::connect(address).await.is_ok()
    })
    .await;
}

// === impl Identity ===

impl Identity {
    /// For 127.0.0.1.
    pub fn new() -> Identity {
        let (params, key) = (
            authority("servers of the tests"),
            KeyPair::generate().unwrap(),
        );
        let root = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        Identity {
            root,
            chain: leaf.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// What a CA's own certificate says.
pub fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// 127.0.0.1 with this port.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A port that nobody listens on, below those that the system gives to connections. Each is given out once: between this
/// look and the listener, another test would find it free as well.
pub fn free_port() -> u16 {
    const PORTS: usize = 20_000;
    static FIRST: LazyLock<usize> = LazyLock::new(|| fastrand::usize(..PORTS));
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    loop {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + u16::try_from((*FIRST + given) % PORTS).unwrap();
        if TcpListener::bind(local(port)).is_ok() {
            return port;
        }
    }
}

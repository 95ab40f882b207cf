//! The usual scene: pebble, the double before it, two upstreams, and a proxy whose site gets its certificate there.

use std::process::Output;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::ca::{Identity, Knobs, Pebble, free_port, local};
use crate::double::Double;
use crate::support::client::tls::{Offer, agreed, connect};
use crate::support::proxy::Home;
use crate::support::{ConfigBuilder, HOST, Proxy, Upstream, eventually, within};

/// Everything that a CA has to do with.
pub struct Scene {
    /// Dropped first, so that the upstreams see the end of its connections and not the other way round.
    pub proxy: Proxy,
    pub double: Double,
    pub pebble: Pebble,
    pub blue: Upstream,
    pub green: Upstream,
}

/// The scene before the proxy is started.
pub struct Backstage {
    pub config: ConfigBuilder,
    pub double: Double,
    pub pebble: Pebble,
    pub blue: Upstream,
    pub green: Upstream,
    pub identity: Identity,
}

// === impl Backstage ===

impl Backstage {
    pub async fn prepare(knobs: Knobs) -> Backstage {
        let blue = Upstream::start("blue").await;
        let green = Upstream::start("green").await;
        let (http, https) = (free_port(), free_port());
        let identity = Identity::new();
        let pebble = Pebble::start(http, https, &identity, knobs).await;
        let double = Double::start(pebble.address, &identity).await;
        let mut config = ConfigBuilder::new(&[&blue.address()], &[&green.address()]);
        config
            .set(
                "listen",
                "http",
                &format!("[{:?}]", local(http).to_string()),
            )
            .set(
                "listen",
                "https",
                &format!("[{:?}]", local(https).to_string()),
            )
            .set("acme", "directory", &format!("{:?}", double.directory()))
            .set("acme", "contact", r#"["mailto:ops@mana.so"]"#)
            .set("acme", "ca_root", r#""ca.pem""#)
            .set("acme", "preflight", r#""off""#)
            .set("acme", "orders_per_week", "1000")
            .site()
            .set("certificate", r#""acme""#);
        Backstage {
            config,
            double,
            pebble,
            blue,
            green,
            identity,
        }
    }

    /// An empty directory for the proxy, with what it trusts.
    pub fn home(&self) -> Home {
        let home = Home::new(&self.config);
        std::fs::write(home.path().join("ca.pem"), &self.identity.root).unwrap();
        home
    }

    pub async fn start(self) -> Scene {
        self.start_with(&[]).await
    }

    pub async fn start_with(self, environment: &[(&str, &str)]) -> Scene {
        let proxy = self.home().start(environment).await;
        Scene {
            proxy,
            double: self.double,
            pebble: self.pebble,
            blue: self.blue,
            green: self.green,
        }
    }
}

// === impl Scene ===

impl Scene {
    /// The scene with its first certificate in place.
    pub async fn issued() -> Scene {
        Scene::issued_with(|_| {}).await
    }

    /// The same with a changed configuration.
    pub async fn issued_with(change: impl FnOnce(&mut Backstage)) -> Scene {
        let mut backstage = Backstage::prepare(Knobs::default()).await;
        change(&mut backstage);
        let scene = backstage.start().await;
        scene.wait_until_issued().await;
        scene
    }

    /// Waits until there is a certificate, and nothing is being done any more.
    pub async fn wait_until_issued(&self) {
        eventually("a certificate", async || {
            let certificate = self.certificate().await;
            certificate["has_certificate"] == true && certificate["is_running"] == false
        })
        .await;
    }

    /// Waits until an attempt has failed, and gives the error.
    pub async fn wait_until_failed(&self) -> String {
        eventually("a failure", async || {
            let certificate = self.certificate().await;
            certificate["error"].is_string() && certificate["is_running"] == false
        })
        .await;
        self.certificate().await["error"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// What `certs list` says of the first site.
    pub async fn certificate(&self) -> Value {
        self.proxy.done("certs list").await["certificates"][0].clone()
    }

    /// The certificate that a new handshake gets, DER.
    pub async fn leaf(&self) -> Vec<u8> {
        self.leaf_of(HOST).await
    }

    pub async fn leaf_of(&self, name: &str) -> Vec<u8> {
        let stream = connect(self.proxy.https(), &Offer::h1(name)).await.unwrap();
        agreed(&stream).certificate
    }

    /// A handshake by a client that trusts pebble's root and nothing else.
    pub async fn trusting(&self, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let root = self.pebble.root().await;
        for root in CertificateDer::pem_slice_iter(root.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.proxy.https()).await?;
        let name = name.to_owned().try_into().unwrap();
        let handshake = TlsConnector::from(Arc::new(config));
        within("handshake", handshake.connect(name, stream)).await
    }

    /// Orders that the CA has taken.
    pub fn orders(&self) -> usize {
        self.double.orders().len()
    }

    /// Certificates that the CA was told to issue.
    pub fn finalized(&self) -> usize {
        self.double.finalized()
    }

    pub async fn renew(&self, arguments: &[&str]) -> Output {
        let arguments: Vec<&str> = ["certs", "renew"]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        self.proxy.cli(&arguments).await
    }

    /// `certs renew --force`, which must give a certificate.
    pub async fn renew_now(&self) {
        let output = self.renew(&["--force"]).await;
        assert!(output.status.success(), "{output:?}");
    }

    /// Files of the store that no finished order leaves behind.
    pub fn leftovers(&self) -> Vec<String> {
        let dir = self.proxy.path().join("run/state/certs");
        let mut found = Vec::new();
        for site in std::fs::read_dir(dir).unwrap() {
            for file in std::fs::read_dir(site.unwrap().path()).unwrap() {
                found.push(file.unwrap().path().display().to_string());
            }
        }
        found.retain(|name| name.ends_with("order.json"));
        found
    }

    /// Nothing is on offer, and no order is left unfinished.
    pub async fn assert_nothing_is_left(&self) {
        assert!(self.leftovers().is_empty(), "{:?}", self.leftovers());
        let metrics = self.proxy.metrics().await;
        assert!(
            metrics.contains("\nmana_proxy_certificate_challenges 0\n"),
            "{metrics}"
        );
    }
}

/// What a process printed to stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

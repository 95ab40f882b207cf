//! The usual scene of a test: a blue upstream, a green upstream and the proxy before them.

use serde_json::Value;

use super::client::tls::{Offer, connect};
use super::client::websocket::Socket;
use super::{ConfigBuilder, H1, H2, HOST, Proxy, Upstream};

/// Two upstreams, both healthy, and a proxy that has found that out. Blue is active.
pub struct Stage {
    /// Dropped first, so that the upstreams see the end of its connections and not the other way round.
    pub proxy: Proxy,
    /// The blue upstream.
    pub blue: Upstream,
    /// The green upstream.
    pub green: Upstream,
}

impl Stage {
    /// The stage with the configuration as it comes.
    pub async fn start() -> Stage {
        Stage::with(|_| {}).await
    }

    /// The stage with a changed configuration.
    pub async fn with(change: impl FnOnce(&mut ConfigBuilder)) -> Stage {
        let blue = Upstream::start("blue").await;
        let green = Upstream::start("green").await;
        let mut config = ConfigBuilder::new(&[&blue.address()], &[&green.address()]);
        change(&mut config);
        let proxy = Proxy::start(&config).await;
        proxy.wait_for_health("blue", true).await;
        proxy.wait_for_health("green", true).await;
        Stage { proxy, blue, green }
    }

    /// The upstream of a slot.
    pub fn upstream(&self, slot: &str) -> &Upstream {
        match slot {
            "blue" => &self.blue,
            "green" => &self.green,
            _ => panic!("{slot} is no slot"),
        }
    }

    /// A connection without TLS.
    pub async fn plain(&self) -> H1 {
        H1::plain(self.proxy.http()).await
    }

    /// A connection with TLS and HTTP/1.1.
    pub async fn h1(&self) -> H1 {
        H1::over(connect(self.proxy.https(), &Offer::h1(HOST)).await.unwrap())
    }

    /// A connection with TLS and HTTP/2.
    pub async fn h2(&self) -> H2 {
        H2::over(connect(self.proxy.https(), &Offer::h2(HOST)).await.unwrap()).await
    }

    /// A websocket.
    pub async fn websocket(&self) -> Socket {
        Socket::open(self.proxy.https()).await
    }

    /// `switch SLOT`, which must be done.
    pub async fn switch(&self, slot: &str) -> Value {
        self.proxy.done(&format!("switch {slot}")).await
    }

    /// Which upstream answers `/` now, over a new connection.
    pub async fn who_answers(&self) -> String {
        let response = self.h1().await.get("/").await;
        assert_eq!(response.status, 200, "{response:?}");
        response.text()
    }
}

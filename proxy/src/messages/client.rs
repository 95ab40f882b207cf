//! One request to one destination, under a deadline, with a bounded answer.
//!
//! Owns the transport: hyper's client, and for https the connector of `mana-certs`, which alone chooses roots and speaks
//! to rustls. A connection for each request: there are few, and none is found dead. Redirects are not followed.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ConnectionError};
use hyper_util::rt::TokioExecutor;
use mana_certs::{ClientError, Connector, https_connector};

use super::Kind;
use super::destination::{Address, Destination, DestinationError, SigningKey};
use super::outbox::Letter;
use super::verdict::Answer;
use super::webhook;

/// A destination whose URL and secret have been read.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) kind: Kind,
    pub(super) address: Address,
    key: Option<SigningKey>,
    http: Http,
}

#[derive(Clone, Debug)]
enum Http {
    Tls(Client<Connector, Full<Bytes>>),
    /// To this machine alone, as [`Address`] checks.
    Plain(Client<HttpConnector, Full<Bytes>>),
}

/// Why a destination cannot be used, before anything is sent.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Its URL or its secret is not to be had.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// There are no roots.
    #[error("cannot trust anybody at {host}")]
    Roots {
        /// The host of the URL.
        host: String,
        /// Why not.
        source: ClientError,
    },
}

/// Why there is no answer. Never says the URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("no answer within {} ms", after.as_millis())]
    TimedOut { after: Duration },
    #[error("cannot be reached")]
    Unreachable(#[source] ConnectionError),
    /// What was put into the outbox by somebody else cannot be written into a request.
    #[error("cannot be asked")]
    Request(#[source] http::Error),
}

impl Endpoint {
    /// Reads the files of a destination. Blocks on the disk.
    pub(super) fn open(destination: &Destination) -> Result<Endpoint, EndpointError> {
        let address = destination.address()?;
        let key = destination.key()?;
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(0);
        let http = match address.is_https() {
            true => Http::Tls(builder.build(connector(&address, destination.ca_root.as_deref())?)),
            false => Http::Plain(builder.build_http()),
        };
        Ok(Endpoint {
            kind: destination.kind,
            address,
            key,
            http,
        })
    }

    /// Sends a message once.
    ///
    /// # Cancel safety
    /// If the future is dropped the destination may or may not have taken it.
    pub(super) async fn post(
        &self,
        letter: &Letter,
        within: Duration,
    ) -> Result<Answer, PostError> {
        let exchange = tokio::time::timeout(within, self.exchange(letter));
        let answer = exchange.await;
        answer.unwrap_or(Err(PostError::TimedOut { after: within }))
    }

    async fn exchange(&self, letter: &Letter) -> Result<Answer, PostError> {
        let request = self.request(letter).map_err(PostError::Request)?;
        let response = match &self.http {
            Http::Tls(client) => client.request(request).await,
            Http::Plain(client) => client.request(request).await,
        };
        let mut answer = read(response.map_err(PostError::Unreachable)?).await;
        // An echo would put the URL where errors are shown.
        let may_be_shown =
            |says: &String| self.kind != Kind::Webhook && !self.address.is_told_by(says);
        answer.says = answer.says.filter(may_be_shown);
        Ok(answer)
    }

    fn request(&self, letter: &Letter) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.address.uri().clone())
            .header(CONTENT_TYPE, "application/json")
            .header(
                USER_AGENT,
                concat!("mana-proxy/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(key) = &self.key {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = since.unwrap_or_default().as_secs();
            let signature = webhook::signature(key.bytes(), &letter.id, now, &letter.body);
            request = request
                .header("webhook-id", &letter.id)
                .header("webhook-timestamp", now)
                .header("webhook-signature", signature);
        }
        request.body(Full::new(letter.body.clone().into()))
    }
}

/// The head decides; a body that breaks off or is too long only says nothing.
async fn read(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let bytes = match head.status.is_success() {
        true => Bytes::new(),
        false => Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_or(Bytes::new(), |body| body.to_bytes()),
    };
    Answer::read(head.status, &head.headers, &bytes)
}

fn connector(address: &Address, ca_root: Option<&Path>) -> Result<Connector, EndpointError> {
    https_connector(ca_root).map_err(|source| EndpointError::Roots {
        host: address.host().to_owned(),
        source,
    })
}

/// Of an answer that is no success; those of Discord and Slack have some hundred.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1024;

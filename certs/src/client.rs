//! HTTP towards a CA: one request at a time, under a deadline, with a bounded answer.
//!
//! Owns the transport that `instant-acme` speaks through. Its own client would wait for ever for a CA that stalls, and
//! keeps `Retry-After` to itself, which has to be obeyed after a 429 and over restarts.

use std::error::Error as StdError;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::budget::RETRY_AFTER_MAX;

/// Why there is no way to a CA, or why a request to it has failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The root certificates of a private CA cannot be read.
    #[error("cannot read the CA's root certificate {}", path.display())]
    Root {
        /// The file of `acme.ca_root`.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The system's root certificates cannot be used.
    #[error("cannot use the root certificates of this system")]
    SystemRoots(#[source] rustls::Error),
    /// No answer in time.
    #[error("the CA did not answer within {} s", REQUEST_TIME.as_secs())]
    TimedOut,
    /// Not reached, or the connection broke.
    #[error("cannot reach {host}")]
    Unreachable {
        /// The host of the URL.
        host: String,
        /// Why not: no address, refused, a certificate of an unknown issuer.
        source: hyper_util::client::legacy::Error,
    },
    /// The answer broke off, or was longer than [`ANSWER_BYTES_MAX`].
    #[error("cannot read the CA's answer")]
    Answer(#[source] Box<dyn StdError + Send + Sync>),
}

/// Connections with TLS, HTTP/1.1 inside. See [`https_connector`].
pub type Connector = HttpsConnector<HttpConnector>;

/// The way to one CA.
#[derive(Clone)]
pub(crate) struct CaClient {
    http: Client<Connector, BodyWrapper<Bytes>>,
    patience: Patience,
}

/// The last `Retry-After` of a CA. Shared by a client and whoever decides when to ask again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patience(Arc<Mutex<Option<Duration>>>);

// === impl Patience ===

impl Patience {
    /// What the last answer asked for.
    pub(crate) fn wanted(&self) -> Option<Duration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, wanted: Option<Duration>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
    }
}

// === impl CaClient ===

impl CaClient {
    /// A client that trusts this file's roots, or the system's. Reads files.
    pub(crate) fn new(ca_root: Option<&Path>) -> Result<CaClient, ClientError> {
        let connector = https_connector(ca_root)?;
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIME)
            .build(connector);
        Ok(CaClient {
            http,
            patience: Patience::default(),
        })
    }

    pub(crate) fn patience(&self) -> Patience {
        self.patience.clone()
    }

    async fn exchange(
        self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Bytes>, ClientError> {
        let is_read = request.method() == Method::GET;
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = self.http.request(request).await;
        let answer = answer.map_err(|source| ClientError::Unreachable { host, source })?;
        let (mut head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let mut body = body.map_err(ClientError::Answer)?.to_bytes();
        self.patience.note(read_once(&mut head.headers));
        if is_read && head.status == StatusCode::OK && !head.headers.contains_key(RETRY_AFTER) {
            // RFC 9773 s4.3 has a SHOULD there, instant-acme insists on it: without one, its default is ours.
            head.headers.insert(RETRY_AFTER, DEFAULT_RETRY_AFTER);
        }
        if !head.status.is_success()
            && let Some(told) = with_status(&body, head.status)
        {
            body = told;
        }
        Ok(Response::from_parts(head, body))
    }
}

impl HttpClient for CaClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let exchange = tokio::time::timeout(REQUEST_TIME, client.exchange(request));
            let answer = exchange.await.unwrap_or(Err(ClientError::TimedOut));
            let answer = answer.map_err(|error| instant_acme::Error::Other(Box::new(error)))?;
            let (parts, body) = answer.into_parts();
            Ok(BytesResponse {
                parts,
                body: Box::new(body),
            })
        })
    }
}

/// Connects over https alone, and trusts this file's roots, or the system's. Reads files. Redirects and plain http are
/// not its matter: an `http://` URL fails.
///
/// Also for what is sent to others than a CA, so that roots are chosen in one way.
///
/// # Errors
/// `Root`: the file cannot be read or has no certificate. `SystemRoots`: the system has none that can be used.
pub fn https_connector(ca_root: Option<&Path>) -> Result<Connector, ClientError> {
    let builder = HttpsConnectorBuilder::new();
    let builder = match ca_root {
        Some(path) => {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(ClientError::SystemRoots)?
                .with_root_certificates(read_roots(path)?)
                .with_no_client_auth();
            builder.with_tls_config(config)
        }
        None => builder
            .try_with_platform_verifier()
            .map_err(ClientError::SystemRoots)?,
    };
    // RFC 8555 s6.1: "Use of HTTPS is REQUIRED."
    Ok(builder.https_only().enable_http1().build())
}

pub(crate) fn read_roots(path: &Path) -> Result<RootCertStore, ClientError> {
    let failed = |source| ClientError::Root {
        path: path.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(path).map_err(|error| failed(Box::new(error)))?
    {
        let certificate = certificate.map_err(|error| failed(Box::new(error)))?;
        roots
            .add(certificate)
            .map_err(|error| failed(Box::new(error)))?;
    }
    if roots.is_empty() {
        return Err(failed("it has no certificate".into()));
    }
    Ok(roots)
}

/// Reads `Retry-After`, and leaves in its place what was read: others read it as well, and add it to a clock that ends
/// somewhere.
fn read_once(headers: &mut HeaderMap) -> Option<Duration> {
    let wanted = read_retry_after(headers.get(RETRY_AFTER)?);
    match wanted {
        Some(wait) => headers.insert(RETRY_AFTER, wait.as_secs().into()),
        None => headers.remove(RETRY_AFTER),
    };
    wanted
}

/// RFC 9110 s10.2.3: a number of seconds, or a date. At most [`RETRY_AFTER_MAX`] of it counts.
fn read_retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More seconds than can be counted are as many as count.
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let date =
            time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc2822);
        let date = SystemTime::from(date.ok()?);
        date.duration_since(SystemTime::now()).unwrap_or_default()
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// A problem document that leaves out its status, as RFC 9457 s3.1.2 allows, with the one that it came with: whether an
/// order is lost, or the CA only busy, is told by it. None if nothing is missing, or it is no such document.
fn with_status(body: &[u8], status: StatusCode) -> Option<Bytes> {
    let mut problem: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(body).ok()?;
    if problem.contains_key("status") {
        return None;
    }
    problem.insert("status".to_owned(), status.as_u16().into());
    serde_json::to_vec(&problem).ok().map(Bytes::from)
}

/// For one request, from the name's resolution to the last byte of the answer.
pub const REQUEST_TIME: Duration = Duration::from_secs(30);
/// The longest answer: a chain of many certificates has some tens of KiB.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
const IDLE_TIME: Duration = Duration::from_secs(20);
/// [`crate::schedule::ASK_AGAIN_DEFAULT`] in seconds.
const DEFAULT_RETRY_AFTER: HeaderValue = HeaderValue::from_static("21600");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &'static str| read_retry_after(&HeaderValue::from_static(text));
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        for too_long in [
            "Fri, 31 Dec 2100 23:59:59 GMT",
            "9999999999999999999",
            "99999999999999999999999999999999",
        ] {
            assert_eq!(read(too_long), Some(RETRY_AFTER_MAX), "{too_long}");
        }
        for none in ["", "-1", "soon"] {
            assert_eq!(read(none), None, "{none:?}");
        }
        let default: u64 = DEFAULT_RETRY_AFTER.to_str().unwrap().parse().unwrap();
        assert_eq!(
            Duration::from_secs(default),
            crate::schedule::ASK_AGAIN_DEFAULT
        );
    }

    #[test]
    fn what_others_read_of_retry_after_is_what_was_read_here() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("9999999999999999999"));
        assert_eq!(read_once(&mut headers), Some(RETRY_AFTER_MAX));
        assert_eq!(headers[RETRY_AFTER], "604800");
        headers.insert(RETRY_AFTER, HeaderValue::from_static("soon"));
        assert_eq!(read_once(&mut headers), None);
        assert!(!headers.contains_key(RETRY_AFTER));
    }

    #[test]
    fn a_problem_without_a_status_has_that_of_its_answer() {
        let told = with_status(br#"{"type":"x"}"#, StatusCode::NOT_FOUND).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told, serde_json::json!({"type": "x", "status": 404}));
        for as_it_is in ["", "<html>", "[]", r#"{"status":500}"#] {
            assert!(with_status(as_it_is.as_bytes(), StatusCode::NOT_FOUND).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ca_that_stalls_is_given_up() {
        // The kernel takes the connection; nobody ever answers. Time passes as soon as nothing else does.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/dir", listener.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.pem");
        std::fs::write(&path, crate::testing::pair_for(&["a.so"]).0).unwrap();
        let client = CaClient::new(Some(&path)).unwrap();
        let begun = tokio::time::Instant::now();
        let request = Request::builder().uri(url).body(BodyWrapper::default());
        let error = client.request(request.unwrap()).await.err().unwrap();
        assert!(
            error.to_string().contains("did not answer within 30 s"),
            "{error}"
        );
        assert!(begun.elapsed() >= REQUEST_TIME);
    }

    #[test]
    fn a_root_that_is_none_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.pem");
        let refusal = || {
            let error = CaClient::new(Some(&path)).err().unwrap();
            crate::order::with_sources(&error)
        };
        assert!(refusal().contains("root.pem"), "{}", refusal());
        std::fs::write(&path, "no certificate").unwrap();
        assert!(refusal().contains("it has no certificate"), "{}", refusal());
    }
}

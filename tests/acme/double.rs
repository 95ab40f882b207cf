//! What stands in front of pebble: passes everything through, and adds renewalInfo (RFC 9773), profiles, and faults.
//!
//! It keeps a log of what was asked for. Signed requests cannot be changed and are not; answers can.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::ca::{Identity, authority};
use crate::support::client::tls::{Offer, connect};

/// A part of the CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Directory,
    Account,
    Order,
    Challenge,
    Finalize,
    Certificate,
    Advice,
    /// An order that was made before.
    Lookup,
    Other,
}

/// A running double.
pub struct Double {
    pub address: SocketAddr,
    state: Arc<State>,
}

/// An order as it was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub names: Vec<String>,
    pub replaces: Option<String>,
    pub profile: Option<String>,
}

/// A refusal in place of the CA's answer.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub status: u16,
    pub kind: &'static str,
    pub retry_after_s: Option<u64>,
}

/// The certificate in place of pebble's; seconds from now.
#[derive(Clone, Debug)]
pub struct Issue {
    pub not_before: i64,
    pub not_after: i64,
    /// Other names than those that were asked for.
    pub names: Option<Vec<String>>,
    /// For a key that the proxy does not have.
    pub is_for_other_key: bool,
}

#[derive(Default)]
struct State {
    pebble: Mutex<Option<SocketAddr>>,
    counts: Mutex<HashMap<Part, usize>>,
    orders: Mutex<Vec<Asked>>,
    finalized: AtomicUsize,
    registered: AtomicUsize,
    faults: Mutex<HashMap<Part, VecDeque<Fault>>>,
    held: watch::Sender<Option<Part>>,
    is_down: Mutex<bool>,
    does_not_repeat: Mutex<bool>,
    tokens: Mutex<Vec<String>>,
    /// Windows in the order in which certificates are first asked about; seconds from now.
    windows: Mutex<VecDeque<(i64, i64)>>,
    /// By certificate.
    advice: Mutex<HashMap<String, (SystemTime, SystemTime)>>,
    asked: Mutex<Vec<String>>,
    issues: Mutex<VecDeque<Issue>>,
    csr: Mutex<Vec<u8>>,
}

// === impl Double ===

impl Double {
    /// In front of this pebble.
    pub async fn start(pebble: SocketAddr, identity: &Identity) -> Double {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        *lock(&state.pebble) = Some(pebble);
        let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                if *lock(&shared.is_down) {
                    continue;
                }
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let service = service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { answer(request, &state).await }
                    });
                    // A client that goes away, or is killed, is what many tests want.
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await
                        .ok();
                });
            }
        });
        Double { address, state }
    }

    /// The URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// How often a part was asked, but for what pebble wanted again with another nonce: it refuses some at random.
    pub fn count(&self, part: Part) -> usize {
        lock(&self.state.counts).get(&part).copied().unwrap_or(0)
    }

    /// Every order that was asked for and taken.
    pub fn orders(&self) -> Vec<Asked> {
        lock(&self.state.orders).clone()
    }

    /// Orders that it was told to finalize, and did.
    pub fn finalized(&self) -> usize {
        self.state.finalized.load(Ordering::SeqCst)
    }

    /// Accounts that it has registered.
    pub fn registered(&self) -> usize {
        self.state.registered.load(Ordering::SeqCst)
    }

    /// Every certificate that was asked about, each time.
    pub fn asked_about(&self) -> Vec<String> {
        lock(&self.state.asked).clone()
    }

    /// Tokens of challenges that it has seen.
    pub fn tokens(&self) -> Vec<String> {
        lock(&self.state.tokens).clone()
    }

    /// Refuses the next request to a part, once for each fault.
    pub fn refuse(&self, part: Part, faults: &[Fault]) {
        let mut all = lock(&self.state.faults);
        all.entry(part).or_default().extend(faults);
    }

    /// Lets requests to a part wait until [`Double::release`].
    pub fn hold(&self, part: Part) {
        self.state.held.send_replace(Some(part));
    }

    pub fn release(&self) {
        self.state.held.send_replace(None);
    }

    /// Closes every connection at once, or serves again.
    pub fn be_down(&self, is_down: bool) {
        *lock(&self.state.is_down) = is_down;
    }

    /// Takes orders with `replaces`, and does not repeat it as RFC 9773 s5 asks for.
    pub fn leave_out_replaces(&self) {
        *lock(&self.state.does_not_repeat) = true;
    }

    /// Suggests these windows, in seconds from now, for the next certificates that it is asked about. None left: a
    /// month from now.
    pub fn suggest(&self, windows: &[(i64, i64)]) {
        lock(&self.state.windows).extend(windows);
    }

    /// Suggests another window for every certificate that it knows.
    pub fn suggest_for_all(&self, window: (i64, i64)) {
        for advice in lock(&self.state.advice).values_mut() {
            *advice = (from_now(window.0), from_now(window.1));
        }
    }

    /// Gives out these certificates in place of pebble's, one after the other.
    pub fn issue(&self, issues: &[Issue]) {
        lock(&self.state.issues).extend(issues.iter().cloned());
    }
}

// === impl Issue ===

impl Issue {
    /// A good certificate with these dates.
    pub fn dated(not_before: i64, not_after: i64) -> Issue {
        Issue {
            not_before,
            not_after,
            names: None,
            is_for_other_key: false,
        }
    }
}

/// RFC 8555 s6.5: the same request is made again, with the nonce of this refusal.
const BAD_NONCE: &[u8] = b"urn:ietf:params:acme:error:badNonce";

fn part_of(path: &str) -> Part {
    let first = path.trim_start_matches('/').split('/').next();
    match first.unwrap_or_default() {
        "dir" => Part::Directory,
        "sign-me-up" => Part::Account,
        "order-plz" => Part::Order,
        "chalZ" => Part::Challenge,
        "finalize-order" => Part::Finalize,
        "certZ" => Part::Certificate,
        "renewal-info" => Part::Advice,
        "my-order" => Part::Lookup,
        _ => Part::Other,
    }
}

async fn answer(
    request: Request<Incoming>,
    state: &State,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?;
    let body = body.to_bytes();
    let part = part_of(head.uri.path());
    *lock(&state.counts).entry(part).or_default() += 1;
    let mut held = state.held.subscribe();
    held.wait_for(|held| *held != Some(part)).await.ok();
    let fault = lock(&state.faults)
        .get_mut(&part)
        .and_then(VecDeque::pop_front);
    if let Some(fault) = fault {
        return Ok(refusal(fault));
    }
    if part == Part::Advice {
        return Ok(advice(head.uri.path(), state));
    }
    let payload = payload(&body);
    if part == Part::Finalize {
        let csr = payload["csr"].as_str().unwrap_or_default();
        *lock(&state.csr) = BASE64_URL_SAFE_NO_PAD.decode(csr).unwrap();
    }
    let host = head.headers[HOST].clone();
    let address = lock(&state.pebble).unwrap();
    let (mut parts, mut answer) = forward(Request::from_parts(head, body), address).await?;
    let is_good = parts.status.is_success();
    if !is_good && answer.windows(BAD_NONCE.len()).any(|at| at == BAD_NONCE) {
        lock(&state.counts)
            .entry(part)
            .and_modify(|count| *count -= 1);
    }
    match part {
        Part::Directory if is_good => {
            let mut directory: Value = serde_json::from_slice(&answer).unwrap();
            let base = format!("https://{}", host.to_str().unwrap());
            directory["renewalInfo"] = json!(format!("{base}/renewal-info"));
            directory["meta"]["profiles"] = json!({"classic": "as ever", "shortlived": "six days"});
            answer = directory.to_string().into();
        }
        Part::Order if is_good => {
            let asked = asked(&payload);
            let mut order: Value = serde_json::from_slice(&answer).unwrap();
            if let Some(replaces) = &asked.replaces
                && !*lock(&state.does_not_repeat)
            {
                order["replaces"] = json!(replaces);
            }
            lock(&state.orders).push(asked);
            answer = order.to_string().into();
        }
        Part::Account if is_good => {
            state.registered.fetch_add(1, Ordering::SeqCst);
        }
        Part::Finalize if is_good => {
            state.finalized.fetch_add(1, Ordering::SeqCst);
        }
        Part::Certificate if is_good => {
            let issue = lock(&state.issues).pop_front();
            if let Some(issue) = issue {
                answer = certificate(&lock(&state.csr), &issue).into();
            }
        }
        _ => note_tokens(&answer, state),
    }
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Full::new(answer)))
}

async fn forward(
    request: Request<Bytes>,
    pebble: SocketAddr,
) -> Result<(http::response::Parts, Bytes), std::io::Error> {
    let stream = connect(pebble, &Offer::h1("localhost")).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let answer = sender.send_request(request.map(Full::new)).await;
    let (parts, body) = answer.map_err(std::io::Error::other)?.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?;
    Ok((parts, body.to_bytes()))
}

fn payload(body: &[u8]) -> Value {
    let jws: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = jws["payload"].as_str().unwrap_or_default();
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn asked(payload: &Value) -> Asked {
    let identifiers = payload["identifiers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Asked {
        names: identifiers
            .iter()
            .filter_map(|one| text(&one["value"]))
            .collect(),
        replaces: text(&payload["replaces"]),
        profile: text(&payload["profile"]),
    }
}

fn note_tokens(answer: &[u8], state: &State) {
    let Ok(object) = serde_json::from_slice::<Value>(answer) else {
        return;
    };
    for challenge in object["challenges"].as_array().into_iter().flatten() {
        if challenge["type"] == "http-01" {
            let token = challenge["token"].as_str().unwrap().to_owned();
            lock(&state.tokens).push(token);
        }
    }
}

fn refusal(fault: Fault) -> Response<Full<Bytes>> {
    let problem = json!({
        "type": format!("urn:ietf:params:acme:error:{}", fault.kind),
        "detail": format!("the double says {}", fault.kind),
        "status": fault.status,
    });
    let mut response = Response::new(Full::new(Bytes::from(problem.to_string())));
    *response.status_mut() = StatusCode::from_u16(fault.status).unwrap();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, "application/problem+json".parse().unwrap());
    if let Some(seconds) = fault.retry_after_s {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn advice(path: &str, state: &State) -> Response<Full<Bytes>> {
    let certificate = path.rsplit('/').next().unwrap().to_owned();
    lock(&state.asked).push(certificate.clone());
    let mut known = lock(&state.advice);
    let (start, end) = *known.entry(certificate).or_insert_with(|| {
        let next = lock(&state.windows).pop_front();
        let (start, end) = next.unwrap_or((30 * 24 * 3600, 31 * 24 * 3600));
        (from_now(start), from_now(end))
    });
    let window = json!({"start": mana_certs::text(start), "end": mana_certs::text(end)});
    let body = json!({ "suggestedWindow": window }).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
    headers.insert(RETRY_AFTER, 3600.into());
    response
}

fn certificate(csr: &[u8], issue: &Issue) -> String {
    let der = CertificateSigningRequestDer::from(csr);
    let mut request = CertificateSigningRequestParams::from_der(&der).unwrap();
    let params = &mut request.params;
    params.not_before = from_now(issue.not_before).into();
    params.not_after = from_now(issue.not_after).into();
    params.use_authority_key_identifier_extension = true;
    let serial = fastrand::u64(1..1 << 60);
    params.serial_number = Some(rcgen::SerialNumber::from(serial));
    if let Some(names) = &issue.names {
        params.subject_alt_names = names
            .iter()
            .map(|name| SanType::DnsName(name.as_str().try_into().unwrap()))
            .collect();
    }
    let ca = authority("the double");
    let key = KeyPair::generate().unwrap();
    let root = ca.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(ca, key);
    let leaf = match issue.is_for_other_key {
        false => request.signed_by(&issuer).unwrap(),
        true => {
            let other = KeyPair::generate().unwrap();
            request.params.signed_by(&other, &issuer).unwrap()
        }
    };
    format!("{}{root}", leaf.pem())
}

fn from_now(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    match seconds < 0 {
        true => SystemTime::now() - distance,
        false => SystemTime::now() + distance,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

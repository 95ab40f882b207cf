//! A destination for tests: answers by a list, and keeps what it was sent.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What is answered to one request; the last one of a list is for all that follow.
#[derive(Clone)]
pub(super) enum Reply {
    Status(u16),
    With(u16, &'static [(&'static str, &'static str)], String),
    /// Nothing, for ever.
    Silence,
    /// 200, once it is let go.
    Held(Arc<Notify>),
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    arrived: Arc<Notify>,
    task: JoinHandle<()>,
}

struct Script {
    replies: Vec<Reply>,
    seen: Arc<Mutex<Vec<Seen>>>,
    arrived: Arc<Notify>,
}

impl Receiver {
    pub(super) async fn start(replies: &[Reply]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Receiver::start_on(listener, None, replies)
    }

    pub(super) fn start_on(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        replies: &[Reply],
    ) -> Receiver {
        let seen = Arc::default();
        let arrived = Arc::default();
        let script = Arc::new(Script {
            replies: replies.to_vec(),
            seen: Arc::clone(&seen),
            arrived: Arc::clone(&arrived),
        });
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&script);
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, script).await,
                        Some(tls) => {
                            // A client that does not trust it goes away here.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, script).await;
                            }
                        }
                    }
                });
            }
        });
        Receiver {
            address,
            seen,
            arrived,
            task,
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until there were so many requests.
    pub(super) async fn has_seen(&self, count: usize) -> Vec<Seen> {
        let arrive = async {
            loop {
                let arrived = self.arrived.notified();
                let seen = self.seen();
                if seen.len() >= count {
                    return seen;
                }
                arrived.await;
            }
        };
        let arrived = tokio::time::timeout(Duration::from_secs(20), arrive).await;
        arrived.expect("requests in time")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, script: Arc<Script>) {
    let service = service_fn(move |request| answer(Arc::clone(&script), request));
    let http = hyper::server::conn::http1::Builder::new();
    // A client that gives up ends it with an error.
    http.serve_connection(TokioIo::new(stream), service)
        .await
        .ok();
}

async fn answer(
    script: Arc<Script>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let reply = {
        let mut seen = script.seen.lock().unwrap();
        let at = seen.len().min(script.replies.len() - 1);
        seen.push(Seen {
            path: head.uri.path().to_owned(),
            headers: head.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        });
        script.replies[at].clone()
    };
    script.arrived.notify_waiters();
    let (status, headers, body) = match reply {
        Reply::Status(status) => (status, &[][..], String::new()),
        Reply::With(status, headers, body) => (status, headers, body),
        Reply::Silence => std::future::pending().await,
        Reply::Held(go) => {
            go.notified().await;
            (200, &[][..], String::new())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    Ok(response)
}

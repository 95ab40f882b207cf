//! The admin listener: `/metrics` for Prometheus and `/healthz` for whoever watches the process.
//!
//! Owns these two pages. Runs on the control thread, so it answers while workers are busy; it changes nothing. Without
//! authentication, hence on loopback unless the operator says otherwise.
//!
//! `/healthz` answers `200 ok` while connections are accepted and `503 draining` on the way out.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::worker::{Phase, Shared};

/// The admin address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for [admin]")]
pub struct AdminError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds the admin listener. The port of the result is never 0.
///
/// # Errors
/// The address is in use or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), AdminError> {
    let refused = |source| AdminError { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, bound))
}

/// Takes over the listener that the process before has had.
///
/// # Errors
/// It is none.
pub fn take_over(
    socket: std::net::TcpListener,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), AdminError> {
    let refused = |source| AdminError { address, source };
    socket.set_nonblocking(true).map_err(refused)?;
    let bound = socket.local_addr().map_err(refused)?;
    let listener = TcpListener::from_std(socket).map_err(refused)?;
    Ok((listener, bound))
}

/// Serves the two pages until the future is dropped.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed, so there is always a place sooner or later.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin listener");
                tokio::time::sleep(ACCEPT_WAIT).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &shared);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(tcp), service);
            // A client that went away needs no answer, and one that stalls ends here.
            tokio::time::timeout(CONNECTION_TIME, connection).await.ok();
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    match (is_read, request.uri().path()) {
        (true, "/metrics") => metrics(shared),
        (true, "/healthz") if shared.phase() == Phase::Serving => page(StatusCode::OK, "ok\n"),
        (true, "/healthz") => page(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        (true, _) => page(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        (false, _) => page(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"),
    }
}

fn metrics(shared: &Shared) -> Response<Full<Bytes>> {
    let table = shared.published.load();
    let connections = shared.connections.open();
    let dropped = shared.access.dropped();
    shared.metrics.challenges(shared.challenges.count());
    match shared.metrics.render(&table, connections, dropped) {
        Ok(text) => {
            let mut response = page(StatusCode::OK, text);
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
            );
            response
        }
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            page(
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot write the metrics\n",
            )
        }
    }
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Scrapers and watchers at a time.
const CONNECTIONS_MAX: usize = 32;
/// For one request head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// For a whole connection; scrapers come again.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

//! One request, from its head to its access record, top to bottom.
//!
//! Owns the order of things: verdict, hold, entering the slot, choosing and reaching an upstream, the exchange, another
//! attempt or an error page, the tunnel, the record. Each step's rules live in the file that it is named after.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::{StatusCode, Version};
use mana_control::hold::HoldOutcome;
use mana_control::inflight::Entry;
use mana_control::room::Place;
use mana_control::table::ResponseFields;
use mana_control::{Mode, Site};
use tokio::sync::Notify;

use crate::access::{Record, Served};
use crate::alarm::Alarm;
use crate::answer::{Answer, NO_CHALLENGE, challenge, error_page, redirect};
use crate::attempts::Attempts;
use crate::client_address::{Client, counted_under};
use crate::client_io::ClientIo;
use crate::client_session::{ClientSession, Finished};
use crate::compress_decision::Plan;
use crate::date::http_date;
use crate::edge::{Asked, Scheme, Verdict, verdict};
use crate::exchange::{Ended, Exchange, Progress, is_safe};
use crate::fault::{Blame, Fault};
use crate::fields::Known;
use crate::head::HeadFault;
use crate::headers::{About, Framing, ResponseRules, is_websocket_upgrade, write_request};
use crate::per_address::{ComeBack, RateLimit};
use crate::request_head::RequestHead;
use crate::select::Candidate;
use crate::tunnel;
use crate::upstream::{Busy, ConnectError, Connected, connect, reuse};
use crate::upstream_io::{UpstreamIo, Witness};
use crate::worker::{Phase, Settings, Worker};

/// What requests of one connection share.
#[derive(Debug)]
pub struct Connection {
    /// The bytes below the sessions.
    pub io: ClientIo,
    /// Which kind of listener it came through.
    pub scheme: Scheme,
    /// The address at the other end.
    pub peer: SocketAddr,
    /// `peer` without its port, as upstreams are told it.
    pub client_ip: HeaderValue,
    /// Asks an HTTP/2 connection to take no new streams: its client let one stall.
    pub let_go: Notify,
}

/// What becomes of a HTTP/1 connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next request may follow.
    Reuse,
    /// The response said that it is the last one: close, politely.
    Close,
    /// The response is cut or there is none: close at once.
    Abort,
    /// The client does not read, or is gone: nothing that waits for it is worth keeping.
    Reset,
}

/// Lets the bytes of a response that broke off leave before the end of its connection or stream overtakes them.
async fn hand_over_what_is_written(session: &ClientSession, io: &ClientIo) {
    if session.is_h2() {
        // A reset drops the frames that wait before it; the connection's own task, which writes them, gets its turns.
        for _ in 0..TURNS_BEFORE_RESET {
            tokio::task::yield_now().await;
        }
    } else {
        // It fails where the client is gone, and ends by its stall where that does not read.
        io.flush().await.ok();
    }
}

/// How a request leaves its session.
enum Finish {
    /// A whole response was written.
    Session,
    /// The session is used up (a tunnel), or the client is gone.
    Connection,
    /// The response is cut.
    Abort,
}

/// One request, and what it needs of its surroundings.
pub struct Request<'a> {
    head: RequestHead,
    session: ClientSession,
    client: Client,
    connection: &'a Connection,
    worker: &'a Arc<Worker>,
    /// As they were when the request came.
    settings: &'a Settings,
    record: Record,
    /// The time, as it was when the request last had waited for something: each look at the clock is 0.15 % of a small one.
    now: Instant,
    is_last: bool,
    alarm: &'a mut Alarm,
}

impl<'a> Request<'a> {
    /// A request whose head was read. `is_last` closes the connection after it; `alarm` is for its deadlines.
    pub fn new(
        head: RequestHead,
        session: ClientSession,
        connection: &'a Connection,
        worker: &'a Arc<Worker>,
        settings: &'a Settings,
        is_last: bool,
        alarm: &'a mut Alarm,
    ) -> Request<'a> {
        let client = settings.client.client(
            connection.peer.ip(),
            &connection.client_ip,
            connection.scheme,
            &head.fields,
        );
        let mut record = Record::new(connection, &head);
        record.client(&client);
        Request {
            head,
            session,
            client,
            connection,
            worker,
            settings,
            now: record.started(),
            record,
            is_last,
            alarm,
        }
    }

    /// Serves it.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped, its connection or stream is in an unknown state and must be closed.
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` has room for its parameters twice, and there is one of these for each request under way"
    )]
    pub fn serve(mut self) -> impl Future<Output = Next> + Send {
        async move {
            let finish = self.respond().await;
            self.worker.finished(&self.record, Some(&self.head));
            match finish {
                Finish::Session => {
                    let patience = self.settings.timeouts.client_stall;
                    match self.session.finish(patience).await {
                        Ok(Finished::Reusable) => Next::Reuse,
                        Ok(Finished::Used) => Next::Close,
                        Err(_) => Next::Abort,
                    }
                }
                Finish::Connection => Next::Close,
                Finish::Abort => {
                    let is_clients = self.record.fault.map(Fault::blame) == Some(Blame::Client);
                    if !is_clients {
                        // What came is the client's: one that saw nothing of its response might ask again.
                        hand_over_what_is_written(&self.session, &self.connection.io).await;
                    }
                    let is_ended_by_close = self.session.is_ended_by_close();
                    self.session.abort();
                    // Where a close is the end of a body, only a reset shows that it is cut.
                    match is_clients || is_ended_by_close {
                        true => Next::Reset,
                        false => Next::Abort,
                    }
                }
            }
        }
    }

    async fn respond(&mut self) -> Finish {
        if let Err(come_back) = self.count() {
            self.worker.shared.metrics.reject("requests_per_address");
            let (status, after_s) = (StatusCode::TOO_MANY_REQUESTS, Some(come_back.after_s));
            return Box::pin(self.page(status, "too many requests", after_s)).await;
        }
        // HTTP/1.0 may name none.
        let authority = self.head.authority().unwrap_or_default();
        if !authority.is_empty() && !crate::head::is_host(authority) {
            let reason = "Host is not a host name";
            return self.refuse(StatusCode::BAD_REQUEST, reason).await;
        }
        if let Some(fault) = self.head_fault() {
            return self.refuse(fault.status(), &fault.to_string()).await;
        }
        match self.verdict() {
            Verdict::Challenge(Some(answer)) => {
                let answer = challenge(&answer, &self.head.method);
                self.answer(answer).await
            }
            Verdict::Challenge(None) => self.refuse(StatusCode::NOT_FOUND, NO_CHALLENGE).await,
            Verdict::Redirect {
                site,
                status,
                location,
            } => {
                self.record.site(&site);
                let answer = redirect(status, &location, &self.head.method);
                self.answer(answer).await
            }
            Verdict::Refuse { status, reason } => self.refuse(status, reason).await,
            Verdict::Forward(site) => match self.forward(site).await {
                Ok(finish) => finish,
                Err(fault) => Box::pin(self.fail(fault)).await,
            },
        }
    }

    /// What `head.rs` checks of an HTTP/1 head as bytes, for a head that came in frames.
    fn head_fault(&self) -> Option<HeadFault> {
        let head = &self.head;
        if head.version != Version::HTTP_2 {
            return None;
        }
        let limits = &self.settings.limits;
        let target = head.target();
        if target.len() > limits.uri_bytes {
            return Some(HeadFault::TargetTooLong);
        }
        // Browsers split Cookie into crumbs (RFC 9113 s8.2.3), which are one field all the same.
        let crumbs = head.fields.all(Known::Cookie).count();
        if head.fields.len() - crumbs.saturating_sub(1) > limits.headers {
            return Some(HeadFault::TooLarge);
        }
        // HTTP/2 lets bytes into `:path` that HTTP/1 parsers read differently.
        let is_good = target.iter().all(|byte| crate::head::is_target_byte(*byte));
        (!is_good).then_some(HeadFault::Malformed(
            "the request target has a byte that must be percent-encoded",
        ))
    }

    /// Counts the request at its client's address.
    fn count(&self) -> Result<(), ComeBack> {
        let settings = self.settings;
        let limit = RateLimit {
            per_second: settings.limits.requests_per_address,
            burst: settings.limits.requests_burst,
        };
        if limit.per_second == 0 || !settings.client.is_limited(self.client.ip) {
            return Ok(());
        }
        let address = counted_under(self.client.ip);
        self.worker.shared.request_rates.count(address, limit)
    }

    fn verdict(&self) -> Verdict {
        let authority = self.head.authority().unwrap_or_default();
        let asked = Asked {
            scheme: self.client.scheme,
            peer: self.client.peer,
            method: &self.head.method,
            authority: std::str::from_utf8(authority).unwrap_or_default(),
            path_and_query: self.head.path_and_query(),
        };
        let table = self.worker.shared.published.load();
        let shared = &self.worker.shared;
        verdict(asked, &table, shared.https_port, &shared.challenges)
    }

    /// Finds an upstream that answers, and carries its answer to the client.
    async fn forward(&mut self, site: Arc<Site>) -> Result<Finish, Fault> {
        let settings = self.settings;
        let framing = self.session.request_framing(&self.head);
        self.record.site(&site);
        if let Framing::Length(length) = framing
            && settings.limits.body_bytes.is_some_and(|max| length > max)
        {
            return Err(Fault::BodyTooLarge);
        }
        // A short body that is still arriving when the answer is due is read to its end, and the connection stays.
        let closes = !is_worth_draining(framing, &self.head);
        self.session.close_if_unread(closes);
        let is_upgrade = framing == Framing::Empty && is_websocket_upgrade(&self.head);
        if is_upgrade && self.worker.shared.metrics.tunnels_open() >= settings.limits.tunnels {
            return Err(Fault::TunnelsFull);
        }
        let (site, mut entry) = self.enter(site, framing).await?;
        self.record.site(&site);
        let may_repeat = framing == Framing::Empty && is_safe(&self.head.method);
        let (worker, is_last) = (self.worker, self.is_last);
        let hsts = hsts(self.client.scheme, &site);
        let mut attempts = Attempts::new(
            &site,
            settings.limits.attempts,
            &settings.timeouts,
            self.now,
        );
        loop {
            let mut reached = self
                .reach(&site, &mut entry, &mut attempts, framing, may_repeat)
                .await?;
            let _busy = Busy::count(&reached.candidate.upstream);
            self.record.upstream(&reached.candidate, attempts.made);
            let about = About {
                client: &self.client,
                // The upstream gets the name that the client left out.
                authority: match self.head.authority() {
                    Some(authority) if !authority.is_empty() => authority,
                    Some(_) | None => site.settings.host.as_str().as_bytes(),
                },
                request_id: self.record.request_id,
            };
            let mut head = Vec::with_capacity(self.head.fields.bytes().len() + HEAD_BYTES_ADDED);
            write_request(&mut head, &self.head, framing, is_upgrade, about);
            let mut progress = Progress::default();
            let mut exchange = Exchange {
                request: &self.head,
                client: &mut self.session,
                client_io: &self.connection.io,
                upstream_io: reached.connected.io.clone(),
                begins_at: self.now.into(),
                framing,
                is_upgrade,
                is_last: &|| is_last || worker.phase() != Phase::Serving,
                body_bytes_max: settings.limits.body_bytes,
                client_bytes_per_second: settings.limits.client_bytes_per_second,
                place: reached.place.take(),
                timeouts: &settings.timeouts,
                response_rules: ResponseRules {
                    strict_transport_security: hsts.as_ref(),
                    fields: &site.settings.response_fields,
                    request_id: self.record.request_id,
                    date: http_date,
                },
                compression: &settings.compression,
                alarm: self.alarm,
                progress: &mut progress,
            };
            let ended = exchange.run(&head).await;
            // With it goes its place: what becomes a tunnel has none.
            drop(exchange);
            self.record.progress(&progress);
            match ended {
                Ended::Complete { is_reusable } => {
                    self.now = Instant::now();
                    self.record.ended(self.now);
                    if is_reusable {
                        let max = settings.limits.pool_idle_per_upstream;
                        self.worker.pool.keep(reached.connected.io, max, self.now);
                    }
                    return Ok(Finish::Session);
                }
                Ended::Upgraded => {
                    // Boxed, as what follows a failure is: a request that needs neither does not carry their weight.
                    let io = reached.connected.io;
                    return Box::pin(self.tunnel(io, entry)).await;
                }
                Ended::Cut(fault) => {
                    self.record.fault = Some(fault);
                    return Ok(Finish::Abort);
                }
                Ended::Failed(failed) => {
                    self.now = Instant::now();
                    let is_untouched = failed.nothing_sent && progress.body_in == 0;
                    let may_try_again = failed.died_unanswered && (may_repeat || is_untouched);
                    if !may_try_again || !attempts.may_go_on() {
                        return Err(failed.fault);
                    }
                    attempts.last_fault = Some(failed.fault);
                    self.worker.shared.metrics.retries.inc();
                    if reached.connected.is_reused {
                        // It was closing while it rested; the upstream itself is not in doubt.
                        attempts.again_on_new_connection(reached.candidate);
                    } else {
                        // The record will tell of the upstream that is tried next.
                        let upstream = &reached.candidate.upstream;
                        upstream.server_errors.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Waits out a pause and enters the active slot. The slot may close between load and enter: then the table is
    /// loaded again, at most [`TABLE_LOADS_MAX`] times.
    async fn enter(
        &mut self,
        mut site: Arc<Site>,
        framing: Framing,
    ) -> Result<(Arc<Site>, Entry), Fault> {
        for _ in 0..TABLE_LOADS_MAX {
            match &site.mode {
                Mode::Serving => {
                    if let Some(entry) = site.slot(site.active).inflight.enter() {
                        return Ok((site, entry));
                    }
                }
                Mode::Maintenance => return Err(Fault::Maintenance),
                Mode::Paused(hold) => {
                    let outcome = tokio::select! {
                        outcome = hold.wait() => outcome,
                        () = self.client_gone(framing) => return Err(Fault::ClientGone),
                    };
                    self.now = Instant::now();
                    match outcome {
                        HoldOutcome::Released => {}
                        HoldOutcome::Full => return Err(Fault::PauseFull),
                        HoldOutcome::TimedOut => return Err(Fault::PauseTimedOut),
                    }
                }
            }
            let table = self.worker.shared.published.load();
            site = match table.by_name(site.settings.host.as_str()) {
                Some((site, _)) => Arc::clone(site),
                None => return Err(Fault::SlotClosed),
            };
        }
        Err(Fault::SlotClosed)
    }

    /// Resolves when nobody waits for the response any more, where that can be told without reading the body.
    async fn client_gone(&mut self, framing: Framing) {
        if self.session.is_h2() {
            self.session.reset().await;
        } else if framing == Framing::Empty {
            self.connection.io.gone().await;
        } else {
            std::future::pending().await
        }
    }

    /// A connection to the best candidate that takes one.
    async fn reach(
        &mut self,
        site: &Site,
        entry: &mut Entry,
        attempts: &mut Attempts<'_>,
        framing: Framing,
        may_repeat: bool,
    ) -> Result<Reached, Fault> {
        let settings = self.settings;
        while let Some((candidate, is_new_wanted)) = attempts.next() {
            if candidate.slot != attempts.entered {
                let Some(standby) = site.slot(candidate.slot).inflight.enter() else {
                    continue;
                };
                *entry = standby;
                attempts.entered = candidate.slot;
                self.worker.shared.metrics.backup_used(site);
            }
            let places = settings.limits.in_flight_per_upstream;
            let place = match candidate.upstream.room.try_enter(places) {
                Some(place) => place,
                None => {
                    let wait = Box::pin(attempts.wait_for_place(&candidate, settings));
                    let place = tokio::select! {
                        place = wait => place?,
                        () = self.client_gone(framing) => return Err(Fault::ClientGone),
                    };
                    self.now = Instant::now();
                    place
                }
            };
            let idle_max = settings.timeouts.upstream_idle;
            // One that may go out again need not ask who closed a moment ago.
            let by = match may_repeat && attempts.has_one_to_spare() {
                true => Witness::Runtime,
                false => Witness::Kernel,
            };
            if !is_new_wanted
                && let Some(connected) = reuse(
                    &self.worker.pool,
                    &candidate.upstream,
                    idle_max,
                    by,
                    self.now,
                )
            {
                return Ok(Reached {
                    candidate,
                    connected,
                    place: Some(place),
                });
            }
            let started = self.now;
            let descriptors = self.worker.shared.descriptors;
            let deadline = attempts.connect_deadline();
            let connected = connect(&candidate.upstream, descriptors, deadline).await;
            self.now = Instant::now();
            match connected {
                Ok(connected) => {
                    self.record.connected(self.now - started);
                    return Ok(Reached {
                        candidate,
                        connected,
                        place: Some(place),
                    });
                }
                Err(error @ ConnectError::Exhausted(_)) => {
                    self.worker.shared.metrics.reject("upstream_descriptors");
                    tracing::debug!(upstream = %candidate.upstream.address, %error, "cannot connect");
                }
                Err(error @ ConnectError::Upstream(_)) => {
                    candidate.upstream.mark(MARKED_FOR, self.now);
                    tracing::debug!(upstream = %candidate.upstream.address, %error, "cannot connect");
                }
            }
        }
        Err(attempts.last_fault.unwrap_or(Fault::Unreachable))
    }

    async fn tunnel(&mut self, upstream: UpstreamIo, mut entry: Entry) -> Result<Finish, Fault> {
        entry.become_tunnel();
        let open = self.worker.shared.metrics.tunnel_opened();
        let (drained, stopping) = (entry.until_cut(), self.worker.shared.cut_tunnels());
        let cut = async {
            tokio::select! {
                () = drained => {}
                () = stopping => {}
            }
        };
        let place = || drop((entry, open));
        let idle = self.settings.timeouts.stream_idle;
        let report = tunnel::relay(&self.connection.io, &upstream, idle, cut, place).await;
        self.record.tunnel(report);
        Ok(Finish::Connection)
    }

    async fn fail(&mut self, fault: Fault) -> Finish {
        self.record.fault = Some(fault);
        if fault == Fault::ClientGone {
            return Finish::Abort;
        }
        if fault.blame() == Blame::Client {
            // What it still sends is not to be trusted, or not to be waited for.
            self.session.close_after();
        }
        if fault == Fault::ClientStalled {
            // What the line above is for HTTP/1: a connection that went silent is not kept for its idle time as well.
            self.connection.let_go.notify_one();
        }
        self.page(fault.status(), &fault.to_string(), fault.retry_after_s())
            .await
    }

    async fn refuse(&mut self, status: StatusCode, reason: &str) -> Finish {
        self.page(status, reason, None).await
    }

    async fn page(
        &mut self,
        status: StatusCode,
        reason: &str,
        retry_after_s: Option<u32>,
    ) -> Finish {
        let request = Some((&self.head.method, &self.head.fields));
        let id = self.record.request_id;
        let answer = error_page(status, reason, retry_after_s, request, id.as_str());
        self.answer(answer).await
    }

    async fn answer(&mut self, answer: Answer) -> Finish {
        let scheme = self.connection.scheme;
        let hsts = self.record.of_site().and_then(|site| hsts(scheme, site));
        if self.is_last || self.worker.phase() != Phase::Serving {
            self.session.close_after();
        }
        let count = answer.body.len() as u64;
        self.record.served = Served::Here {
            status: answer.head.status,
            body_out: count,
        };
        let framing = match answer.body.is_empty() {
            true => Framing::Empty,
            false => Framing::Length(count),
        };
        let rules = ResponseRules {
            strict_transport_security: hsts.as_ref(),
            fields: &ResponseFields::default(),
            request_id: self.record.request_id,
            date: http_date,
        };
        let stall = self.settings.timeouts.client_stall;
        let session = &mut self.session;
        let written = match session.write_head(&answer.head, framing, Plan::Leave, rules) {
            Ok(()) => session.write_body(answer.body, true, stall).await,
            Err(fault) => Err(fault),
        };
        match written {
            Ok(()) => Finish::Session,
            Err(fault) => {
                self.record.fault = Some(fault);
                Finish::Abort
            }
        }
    }
}

struct Reached {
    candidate: Candidate,
    connected: Connected,
    place: Option<Place>,
}

/// With `Expect: 100-continue` it is not known whether the body comes after another answer than 100 (RFC 9110 s10.1.1).
fn is_worth_draining(framing: Framing, head: &RequestHead) -> bool {
    match framing {
        Framing::Empty => true,
        Framing::Length(length) => length <= DRAIN_BYTES_MAX && !head.fields.has(Known::Expect),
        Framing::Chunked | Framing::UntilClose | Framing::Frames => false,
    }
}

fn hsts(scheme: Scheme, site: &Site) -> Option<HeaderValue> {
    // Meaningful over https alone (RFC 6797 s7.2). Checked by the configuration.
    let text = site.settings.strict_transport_security.as_ref()?;
    (scheme == Scheme::Https)
        .then(|| HeaderValue::from_str(text).ok())
        .flatten()
}

/// What heads towards upstreams have more than those of clients: mostly they fit without growing.
const HEAD_BYTES_ADDED: usize = 512;
/// One is enough for a connection that can write; a second covers one that was just about to read.
const TURNS_BEFORE_RESET: usize = 2;
/// A request body up to this is read to its end rather than cut off by a close.
const DRAIN_BYTES_MAX: u64 = 256 * 1024;
/// A slot closes at a cutover, and cutovers are seconds apart: a second load finds an open one.
const TABLE_LOADS_MAX: usize = 3;
/// How long an upstream that refused a connection is passed over for its neighbours.
const MARKED_FOR: Duration = Duration::from_secs(1);

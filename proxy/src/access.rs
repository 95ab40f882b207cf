//! The access record of one request, and its line.
//!
//! Owns the record's shape. Where lines go is `access_log.rs`' matter.
//!
//! A line, wrapped here:
//! ```json
//! {"time":"2026-11-22T09:00:00.123Z","request_id":"86fa7fa506d193132f0deb002b694e7c","client":"192.0.2.1","protocol":"h2",
//!  "site":"mana.so","method":"GET","host":"mana.so","path":"/a?b=c","status":200,"bytes_in":0,"bytes_out":5120,
//!  "slot":"blue","upstream":"127.0.0.1:4000","generation":7,"attempts":1,"duration_us":1834,"connect_us":0,
//!  "first_byte_us":1650,"outcome":"ok"}
//! ```
//! `status` is 499 where the client went away before it had one, and 0 never. `slot`, `upstream` and what follows are
//! absent where nothing was forwarded. `outcome` is `ok`, `cut` (the response broke off), a fault's name, or
//! `tunnel_closed`, `tunnel_idle`, `tunnel_failed`, `tunnel_cut`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use http::header::HeaderValue;
use http::{StatusCode, Version};
use mana_control::{Site, Slot, Upstream};

use crate::access_line::{Line, key, time_text};
use crate::client_address::Client;
use crate::exchange::Progress;
use crate::fault::Fault;
use crate::forward::Connection;
use crate::request_head::RequestHead;
use crate::request_id::RequestId;
use crate::select::Candidate;
use crate::tunnel::{TunnelEnd, TunnelReport};

/// Everything that is known of one request when it is over.
#[derive(Debug)]
pub struct Record {
    /// Its id.
    pub request_id: RequestId,
    /// What went wrong, if anything did.
    pub fault: Option<Fault>,
    /// Who answered.
    pub served: Served,
    started: Instant,
    ended: Option<Instant>,
    client: HeaderValue,
    protocol: &'static str,
    site: Option<Arc<Site>>,
    upstream: Option<(Slot, Arc<Upstream>)>,
    attempts: usize,
    connect_us: u64,
    progress: Progress,
    tunnel: Option<TunnelReport>,
}

/// Who answered a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// An upstream, or nobody.
    Upstream,
    /// The proxy itself.
    Here {
        /// The status of its answer.
        status: StatusCode,
        /// The bytes of its body.
        body_out: u64,
    },
}

impl Record {
    /// The record of a request whose head was read.
    pub fn new(connection: &Connection, head: &RequestHead) -> Record {
        let mut record = Record::refused(connection);
        record.protocol = match head.version {
            Version::HTTP_2 => "h2",
            Version::HTTP_10 => "http/1.0",
            _ => "http/1.1",
        };
        record
    }

    /// The record of bytes that never became a request.
    pub fn refused(connection: &Connection) -> Record {
        Record {
            request_id: RequestId::random(),
            fault: None,
            served: Served::Upstream,
            started: Instant::now(),
            ended: None,
            client: connection.client_ip.clone(),
            protocol: "http/1.1",
            site: None,
            upstream: None,
            attempts: 0,
            connect_us: 0,
            progress: Progress::default(),
            tunnel: None,
        }
    }

    /// The answer that such bytes got.
    pub fn refused_with(&mut self, status: StatusCode, body_out: usize) {
        let body_out = body_out as u64;
        self.served = Served::Here { status, body_out };
    }

    /// Who the client is, where the peer is not.
    pub fn client(&mut self, client: &Client) {
        self.client = client.text.clone();
    }

    /// The site that the request is for.
    pub fn site(&mut self, site: &Arc<Site>) {
        self.site = Some(Arc::clone(site));
    }

    /// The upstream that the latest attempt reached.
    pub fn upstream(&mut self, candidate: &Candidate, attempts: usize) {
        self.upstream = Some((candidate.slot, Arc::clone(&candidate.upstream)));
        self.attempts = attempts;
    }

    /// A new connection was made, and that took so long.
    pub fn connected(&mut self, took: Duration) {
        self.connect_us += micros(took);
    }

    /// The response was complete at `now`.
    pub fn ended(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// What moved in the latest attempt.
    pub fn progress(&mut self, progress: &Progress) {
        self.progress = *progress;
    }

    /// What a tunnel relayed.
    pub fn tunnel(&mut self, report: TunnelReport) {
        self.progress.body_in += report.bytes_in;
        self.progress.body_out += report.bytes_out;
        self.tunnel = Some(report);
    }

    /// Counts the request on its upstream if it went wrong there: a watch window judges a release by that.
    pub fn count_on_upstream(&self) {
        if let Some((_, upstream)) = &self.upstream
            && self.status().is_server_error()
        {
            upstream.server_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The status that the client got, or would have got.
    pub fn status(&self) -> StatusCode {
        match (self.served, self.progress.status, self.fault) {
            (Served::Here { status, .. }, _, _) => status,
            (Served::Upstream, Some(status), _) => status,
            (Served::Upstream, None, Some(fault)) => fault.status(),
            (Served::Upstream, None, None) => Fault::ClientGone.status(),
        }
    }

    /// The site that the request is for, once it is known.
    pub fn of_site(&self) -> Option<&Site> {
        self.site.as_deref()
    }

    /// The site's canonical host.
    pub fn site_name(&self) -> Option<&str> {
        self.site.as_ref().map(|site| site.settings.host.as_str())
    }

    /// The slot that answered.
    pub fn slot(&self) -> Option<Slot> {
        self.upstream.as_ref().map(|(slot, _)| *slot)
    }

    /// When its head had been read.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// From the head's arrival until the response was complete, or until now.
    pub fn duration(&self) -> Duration {
        let ended = self.ended.unwrap_or_else(Instant::now);
        ended.saturating_duration_since(self.started)
    }

    /// Whether the request became a tunnel.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel.is_some()
    }

    fn outcome(&self) -> &'static str {
        if let Some(tunnel) = self.tunnel {
            return match tunnel.end {
                TunnelEnd::Closed => "tunnel_closed",
                TunnelEnd::Idle => "tunnel_idle",
                TunnelEnd::Failed => "tunnel_failed",
                TunnelEnd::Cut => "tunnel_cut",
            };
        }
        match (self.fault, self.progress.status) {
            (None, _) => "ok",
            (Some(Fault::ClientGone), _) => "client_gone",
            (Some(_), Some(_)) if self.served == Served::Upstream => "cut",
            (Some(fault), _) => fault.name(),
        }
    }

    /// Appends the record's line, newline included. `head` is what the request said, if it became one, `took` how
    /// long it took, and `now` the time of the line.
    pub fn write_line(
        &self,
        head: Option<&RequestHead>,
        took: Duration,
        now: SystemTime,
        into: &mut Vec<u8>,
    ) {
        let (bytes_in, bytes_out) = self.bytes();
        let time = time_text(now);
        let upstream = self.upstream.as_ref();
        let host = head.and_then(RequestHead::authority);
        let first_byte = self
            .progress
            .first_byte
            .map(|at| micros(at.into_std().saturating_duration_since(self.started)));
        let mut line = Line::begin(into, key!("time"), &time);
        line.plain(key!("request_id"), self.request_id.as_bytes());
        // An address, and a token: neither has a byte that needs an escape.
        line.plain(key!("client"), self.client.as_bytes());
        line.plain(key!("protocol"), self.protocol.as_bytes());
        line.text_if(key!("site"), self.site_name());
        line.plain_if(key!("method"), head.map(|head| head.method.as_str()));
        line.text_if(
            key!("host"),
            host.and_then(|host| std::str::from_utf8(host).ok()),
        );
        line.text_if(key!("path"), head.map(RequestHead::path_and_query));
        line.number(key!("status"), u64::from(self.status().as_u16()));
        line.number(key!("bytes_in"), bytes_in);
        line.number(key!("bytes_out"), bytes_out);
        line.plain_if(key!("slot"), self.slot().map(Slot::as_str));
        line.text_if(
            key!("upstream"),
            upstream.map(|(_, upstream)| upstream.address.as_str()),
        );
        line.number_if(
            key!("generation"),
            self.site.as_ref().map(|site| site.generation),
        );
        line.number_if(key!("attempts"), upstream.map(|_| self.attempts as u64));
        line.number(key!("duration_us"), micros(took));
        line.number_if(key!("connect_us"), upstream.map(|_| self.connect_us));
        line.number_if(key!("first_byte_us"), first_byte);
        line.plain(key!("outcome"), self.outcome().as_bytes());
        line.end();
    }

    /// Bytes of the request's body, and of the response's.
    fn bytes(&self) -> (u64, u64) {
        let out = match self.served {
            Served::Here { body_out, .. } => body_out,
            Served::Upstream => self.progress.body_out,
        };
        (self.progress.body_in, out)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

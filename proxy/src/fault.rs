//! What can go wrong with a request, who is to blame, and what the client is told.
//!
//! Owns the one map from a fault to a status and a sentence. Does not write the answer (`answer.rs`) and does not log.

use http::StatusCode;

/// Why a request was not answered by an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The client closed or reset before it was answered. Nobody is left to be told; logged as 499.
    #[error("the client went away")]
    ClientGone,
    /// The client stopped sending its body.
    #[error("the request body did not arrive in time")]
    ClientStalled,
    /// The body's framing is broken.
    #[error("the request body is malformed")]
    ClientMalformed,
    /// The body is larger than `limits.body_bytes`.
    #[error("the request body is too large")]
    BodyTooLarge,
    /// No upstream of the active slot, nor of a healthy standby, took a connection.
    #[error("no upstream can be reached")]
    Unreachable,
    /// The slot closed twice between load and enter.
    #[error("the slot is closing")]
    SlotClosed,
    /// The site is under maintenance.
    #[error("the site is under maintenance")]
    Maintenance,
    /// The site is paused and its queue is full.
    #[error("too many requests are waiting")]
    PauseFull,
    /// The site is paused and this request waited its time.
    #[error("the wait was too long")]
    PauseTimedOut,
    /// As many tunnels as `limits.tunnels` are open.
    #[error("too many tunnels are open")]
    TunnelsFull,
    /// As many requests as `limits.in_flight_per_upstream` are in the upstream, and as many as
    /// `limits.queue_per_upstream` wait.
    #[error("the upstream is busy, and too many requests are waiting")]
    UpstreamFull,
    /// It waited `timeouts.queue_wait` for a place in the upstream.
    #[error("the upstream is busy, and the wait was too long")]
    QueueTimedOut,
    /// The upstream closed or reset before it answered.
    #[error("the upstream closed the connection without an answer")]
    UpstreamClosed,
    /// The upstream's answer is no HTTP/1 response.
    #[error("the upstream's answer is malformed")]
    UpstreamMalformed,
    /// The upstream did not answer within `timeouts.response_head`.
    #[error("the upstream did not answer in time")]
    UpstreamTimedOut,
}

/// Who caused a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// 4xx.
    Client,
    /// 502 and 504.
    Upstream,
    /// 503: the operator's doing, or nothing to send the request to.
    Site,
}

impl Fault {
    /// The name under which it is logged and counted.
    pub fn name(self) -> &'static str {
        match self {
            Fault::ClientGone => "client_gone",
            Fault::ClientStalled => "client_stalled",
            Fault::ClientMalformed => "client_malformed",
            Fault::BodyTooLarge => "body_too_large",
            Fault::Unreachable => "unreachable",
            Fault::SlotClosed => "slot_closed",
            Fault::Maintenance => "maintenance",
            Fault::PauseFull => "pause_full",
            Fault::PauseTimedOut => "pause_timed_out",
            Fault::TunnelsFull => "tunnels_full",
            Fault::UpstreamFull => "upstream_full",
            Fault::QueueTimedOut => "queue_timed_out",
            Fault::UpstreamClosed => "upstream_closed",
            Fault::UpstreamMalformed => "upstream_malformed",
            Fault::UpstreamTimedOut => "upstream_timed_out",
        }
    }

    /// The limit that it reached, under which it is counted once more.
    pub fn limit(self) -> Option<&'static str> {
        match self {
            Fault::ClientStalled => Some("client_stall"),
            Fault::BodyTooLarge => Some("body_bytes"),
            Fault::UpstreamFull => Some("queue_per_upstream"),
            Fault::QueueTimedOut => Some("queue_wait"),
            Fault::TunnelsFull => Some("tunnels"),
            Fault::ClientGone
            | Fault::ClientMalformed
            | Fault::Unreachable
            | Fault::SlotClosed
            | Fault::Maintenance
            | Fault::PauseFull
            | Fault::PauseTimedOut
            | Fault::UpstreamClosed
            | Fault::UpstreamMalformed
            | Fault::UpstreamTimedOut => None,
        }
    }

    /// Who caused it.
    pub fn blame(self) -> Blame {
        match self {
            Fault::ClientGone
            | Fault::ClientStalled
            | Fault::ClientMalformed
            | Fault::BodyTooLarge => Blame::Client,
            Fault::Unreachable
            | Fault::SlotClosed
            | Fault::Maintenance
            | Fault::PauseFull
            | Fault::PauseTimedOut
            | Fault::TunnelsFull
            | Fault::UpstreamFull
            | Fault::QueueTimedOut => Blame::Site,
            Fault::UpstreamClosed | Fault::UpstreamMalformed | Fault::UpstreamTimedOut => {
                Blame::Upstream
            }
        }
    }

    /// The status of the answer, or of the log line where nobody is left to answer.
    pub fn status(self) -> StatusCode {
        match self {
            Fault::ClientGone => {
                // Not registered; the number that nginx made known for this.
                StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
            }
            Fault::ClientStalled => StatusCode::REQUEST_TIMEOUT,
            Fault::ClientMalformed => StatusCode::BAD_REQUEST,
            Fault::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::Unreachable
            | Fault::SlotClosed
            | Fault::Maintenance
            | Fault::PauseFull
            | Fault::PauseTimedOut
            | Fault::TunnelsFull
            | Fault::UpstreamFull
            | Fault::QueueTimedOut => StatusCode::SERVICE_UNAVAILABLE,
            Fault::UpstreamClosed | Fault::UpstreamMalformed => StatusCode::BAD_GATEWAY,
            Fault::UpstreamTimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Seconds after which asking again makes sense; for 503 alone (RFC 9110 s10.2.3).
    pub fn retry_after_s(self) -> Option<u32> {
        match self {
            Fault::Maintenance => Some(30),
            Fault::Unreachable
            | Fault::SlotClosed
            | Fault::PauseFull
            | Fault::PauseTimedOut
            | Fault::TunnelsFull
            | Fault::UpstreamFull
            | Fault::QueueTimedOut => Some(5),
            Fault::ClientGone
            | Fault::ClientStalled
            | Fault::ClientMalformed
            | Fault::BodyTooLarge
            | Fault::UpstreamClosed
            | Fault::UpstreamMalformed
            | Fault::UpstreamTimedOut => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_ways_in_which_an_upstream_fails_are_told_apart() {
        assert_eq!(Fault::UpstreamClosed.status().as_u16(), 502);
        assert_eq!(Fault::Unreachable.status().as_u16(), 503);
        assert_eq!(Fault::UpstreamTimedOut.status().as_u16(), 504);
        assert!(Fault::Unreachable.retry_after_s().is_some());
    }

    #[test]
    fn blame_and_status_agree() {
        use Fault::*;
        for fault in [
            ClientGone,
            ClientStalled,
            ClientMalformed,
            BodyTooLarge,
            Unreachable,
            SlotClosed,
            Maintenance,
            PauseFull,
            PauseTimedOut,
            TunnelsFull,
            UpstreamFull,
            QueueTimedOut,
            UpstreamClosed,
            UpstreamMalformed,
            UpstreamTimedOut,
        ] {
            let class = fault.status().as_u16() / 100;
            assert_eq!(fault.blame() == Blame::Client, class == 4, "{fault:?}");
            assert_eq!(
                fault.blame() == Blame::Site,
                fault.retry_after_s().is_some(),
                "{fault:?}"
            );
        }
    }
}

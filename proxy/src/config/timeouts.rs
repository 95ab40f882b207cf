//! How long things may take: the `[timeouts]` section, with its defaults and why they are what they are.

use std::time::Duration;

/// `[timeouts]`: every wait of a request or a connection. In the file: `500ms`, `30s`, `5m`, `1h`; from 1 ms to 24 h.
///
/// A wait of zero would refuse everything and one without end would keep what a vanished peer holds, so neither can be
/// written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `handshake`, default `10s`: from accept to the end of the TLS handshake.
    ///
    /// A handshake is two round trips; ten seconds are enough over a bad mobile link. Shorter cuts such users off,
    /// longer lets idle sockets take up the connection limit.
    pub handshake: Duration,
    /// `request_head`, default `10s`: from the first byte of a request to the end of its head; then 408.
    ///
    /// A total, not a gap: a byte every few seconds does not extend it. Shorter hurts slow uplinks with large cookies,
    /// longer is what a slow-header attack lives on.
    pub request_head: Duration,
    /// `idle`, default `75s`: how long a kept-alive connection waits for the next request.
    ///
    /// It is more than the 60 s after which usual CDNs and load balancers let go, so that they close first and
    /// never send a request into a connection that is closing. Longer only holds memory.
    pub idle: Duration,
    /// `client_stall`, default `30s`: how long a client may neither send the body it owes nor read the response.
    ///
    /// A gap, not a total: a slow download goes on for ever. What is moved makes up for a gap at the rate of
    /// `limits.client_bytes_per_second`, so that a byte now and then does not. Shorter breaks phones that sleep or change networks,
    /// longer lets a client that went away hold a slot's drain.
    pub client_stall: Duration,
    /// `connect`, default `1s`: one connection attempt to one upstream address.
    ///
    /// Upstreams are near: a second is already a lost SYN and its first retransmission. Shorter fails on that
    /// retransmission, longer delays the attempt at the other address.
    pub connect: Duration,
    /// `connect_total`, default `3s`: all connection attempts of one request; then 503. `connect <= connect_total`.
    ///
    /// It bounds what a user waits when a whole slot is gone. It leaves room for three attempts of `connect`.
    pub connect_total: Duration,
    /// `response_head`, default `60s`: from the request sent to the head of the response; then 504.
    ///
    /// It has to exceed the slowest page that is meant to work. Shorter turns slow pages into 504s, longer keeps users
    /// waiting for an upstream that hangs.
    pub response_head: Duration,
    /// `response_stall`, default `5m`: the longest gap inside a response body; then the response is cut off.
    ///
    /// Streamed pages pause while data is fetched. Shorter cuts them, longer keeps what a hung upstream holds.
    pub response_stall: Duration,
    /// `stream_idle`, default `1h`: the longest silence of a tunnel or of a `text/event-stream` response.
    ///
    /// Websockets and event streams are silent by nature; those with a heartbeat never come near. Shorter makes quiet
    /// ones reconnect, longer keeps tunnels whose peer vanished without a word.
    pub stream_idle: Duration,
    /// `upstream_idle`, default `4s`: how long an unused upstream connection is kept for the next request.
    ///
    /// It has to be shorter than the upstream's own keep-alive timeout (Node.js: 5 s), or requests are sent into
    /// connections that the upstream is closing. Much shorter gives up reuse: a new connection for every request.
    pub upstream_idle: Duration,
    /// `queue_wait`, default `5s`: how long a request waits for a place in a full upstream; then 503.
    ///
    /// Shorter turns users away at a short peak, longer lets them wait for what comes too late.
    pub queue_wait: Duration,
    /// `h2_drain`, default `10s`: how long an HTTP/2 connection stays after GOAWAY with nothing in flight.
    ///
    /// Shorter meets requests that are on their way with a closed connection, longer delays a shutdown by clients that do
    /// not let go. Streams in flight finish whatever it is.
    pub h2_drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            client_stall: Duration::from_secs(30),
            connect: Duration::from_secs(1),
            connect_total: Duration::from_secs(3),
            response_head: Duration::from_secs(60),
            response_stall: Duration::from_secs(5 * 60),
            stream_idle: Duration::from_secs(60 * 60),
            upstream_idle: Duration::from_secs(4),
            queue_wait: Duration::from_secs(5),
            h2_drain: Duration::from_secs(10),
        }
    }
}

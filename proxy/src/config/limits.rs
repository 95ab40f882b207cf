//! How much there may be: the `[limits]` section, with its defaults and why they are what they are.

/// `[limits]`: bounds on what peers can make the process hold. Sizes in the file: `16KiB`, `10MiB`, `1GiB`, or bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `connections`, default 20000, 1 to 1000000: client connections at once; further ones wait in the kernel's queue.
    ///
    /// Each takes a file descriptor and, with HTTP/2, some tens of KiB. Too low turns users away at a peak, too high
    /// lets a flood end in no memory or no descriptors, which hits everyone.
    pub connections: usize,
    /// `connections_per_address`, default 256, 1 to 1000000: connections at once from one address (IPv6: from one /64);
    /// the next one is closed unanswered.
    ///
    /// A browser has six, or one with HTTP/2; an office behind one address has hundreds. Too low locks such an office
    /// out, too high lets a few machines have all of `connections`.
    pub connections_per_address: usize,
    /// `requests_per_address`, default 200, 0 to 1000000: requests a second of one client (IPv6: of one /64) in the
    /// mean; then 429. 0 = no limit.
    ///
    /// A page with all its parts is some 50 to 100 requests, once. Too low hits those who share an address, too high lets
    /// one machine keep the upstream busy.
    pub requests_per_address: u32,
    /// `requests_burst`, default 1000, 1 to 10000000, not less than `requests_per_address`: requests of one client at
    /// once.
    ///
    /// They are counted in windows of `requests_burst / requests_per_address` seconds. Too low cuts into pages of many
    /// parts, too high makes the mean meaningless.
    pub requests_burst: u32,
    /// `handshakes`, default 512, 1 to 1000000: TLS handshakes at once; a further one takes the place of the oldest.
    ///
    /// One takes some 50 KiB and two round trips. Too low cuts slow clients off at a peak, too high lets a flood of
    /// them have memory and time.
    pub handshakes: usize,
    /// `client_bytes_per_second`, default 100, 0 to 1000000: the slowest that a client may send a body or read a
    /// response in the mean over `timeouts.client_stall`; then 408, or the connection is closed. 0 = any.
    ///
    /// The slowest mobile networks are some hundred times faster. Too low keeps who trickles, too high cuts them off.
    pub client_bytes_per_second: u32,
    /// `h2_control_frames`, default 1000, 100 to 1000000: HTTP/2 frames of one connection that move nothing (SETTINGS,
    /// PING, PRIORITY, WINDOW_UPDATE, empty DATA), at once, beyond those that its requests and bodies account for; then
    /// the connection is closed. 100 a second come back.
    ///
    /// Browsers send a few dozen. Lower may hit clients with odd habits, higher is work for nothing.
    pub h2_control_frames: u32,
    /// `in_flight_per_upstream`, default 1024, 1 to 1000000: requests in one upstream at once; further ones wait.
    ///
    /// Websockets and event streams are not among them. Too low leaves an upstream idle, too high lets it drown in
    /// requests that it cannot serve in time.
    pub in_flight_per_upstream: usize,
    /// `queue_per_upstream`, default 1024, 0 to 1000000: requests that wait for a place; the next one is answered 503.
    ///
    /// More than are served within `timeouts.queue_wait` wait for nothing. 0 turns away at once.
    pub queue_per_upstream: usize,
    /// `head_bytes`, default `64KiB`, `1KiB` to `1MiB`: a request head, names and values; then 431.
    ///
    /// Browsers send at most some 16 KiB of cookies. Lower locks those users out, higher is memory for each connection.
    pub head_bytes: usize,
    /// `headers`, default 100, 10 to 1000: header fields of a request; then 431.
    ///
    /// Real requests behind a CDN have about 40. Lower breaks such a chain, higher only helps who probes for limits.
    pub headers: usize,
    /// `uri_bytes`, default `16KiB`, `256B` to `64KiB`: the request target; then 414.
    ///
    /// Longer links do not survive browsers and mail clients. Lower breaks long search queries and signed URLs.
    pub uri_bytes: usize,
    /// `body_bytes`, default absent: the request body; then 413. Absent = no limit.
    ///
    /// Bodies are passed on as they arrive, so that their size costs the proxy nothing; the application knows better
    /// what it accepts. Set it where it does not. Too low breaks uploads.
    pub body_bytes: Option<u64>,
    /// `requests_per_connection`, default 10000, 1 to 1000000000: then the connection is closed in good order.
    ///
    /// It bounds what one connection can pile up and spreads long-lived clients anew over the workers. 1 is no
    /// keep-alive: a handshake for every request.
    pub requests_per_connection: usize,
    /// `h2_streams`, default 100, 1 to 1000: concurrent requests of one HTTP/2 connection.
    ///
    /// RFC 9113 s6.5.2 asks for no less than 100, "so as not to unnecessarily limit parallelism"
    /// (<https://www.rfc-editor.org/rfc/rfc9113#section-6.5.2>). Lower makes pages with many parts load in steps,
    /// higher lets one connection occupy the upstream.
    pub h2_streams: u32,
    /// `pool_idle_per_upstream`, default 256, 0 to 10000: unused connections kept for each upstream by each worker.
    ///
    /// 0 is a new connection for every request. Too high holds sockets in the upstream for a peak that is over;
    /// `upstream_idle` lets them go soon in any case.
    pub pool_idle_per_upstream: usize,
    /// `attempts`, default 3, 1 to 10: attempts to reach an upstream for one request; then 503, or 502 if one
    /// was reached and closed without an answer.
    ///
    /// Three reach the second address of a name and the other slot. 1 is no failover, more only multiplies the load on
    /// an upstream in trouble.
    pub attempts: usize,
    /// `tunnels`, default 10000, 1 to 1000000: upgraded connections at once; the next upgrade is answered 503.
    ///
    /// A tunnel takes two file descriptors for as long as it lives. Too low refuses websockets, too high lets them take
    /// the descriptors of requests.
    pub tunnels: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 20_000,
            connections_per_address: 256,
            requests_per_address: 200,
            requests_burst: 1000,
            handshakes: 512,
            client_bytes_per_second: 100,
            h2_control_frames: 1000,
            in_flight_per_upstream: 1024,
            queue_per_upstream: 1024,
            head_bytes: 64 * KIB,
            headers: 100,
            uri_bytes: 16 * KIB,
            body_bytes: None,
            requests_per_connection: 10_000,
            h2_streams: 100,
            pool_idle_per_upstream: 256,
            attempts: 3,
            tunnels: 10_000,
        }
    }
}

const KIB: usize = 1024;

//! What is counted: five kinds of traffic, each a fixed sequence of requests on one connection, or on one each.

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scenario {
    H1Plain1k,
    H1Tls1k,
    H2Tls1k,
    Handshake,
    H1Tls64k,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speaks {
    Plain,
    H1,
    H2,
    /// HTTP/1.1 over TLS, a new connection and a full handshake for each request.
    H1Once,
}

// === impl Scenario ===

impl Scenario {
    /// In the order of counting and of the table.
    pub const ALL: [Scenario; 5] = [
        Scenario::H1Plain1k,
        Scenario::H1Tls1k,
        Scenario::H2Tls1k,
        Scenario::Handshake,
        Scenario::H1Tls64k,
    ];

    /// As it is called in the table and in the stored figures.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::H1Plain1k => "h1-plain-1k",
            Scenario::H1Tls1k => "h1-tls-1k",
            Scenario::H2Tls1k => "h2-tls-1k",
            Scenario::Handshake => "handshake-full",
            Scenario::H1Tls64k => "h1-tls-64k",
        }
    }

    /// What its client speaks.
    pub fn speaks(self) -> Speaks {
        match self {
            Scenario::H1Plain1k => Speaks::Plain,
            Scenario::H1Tls1k | Scenario::H1Tls64k => Speaks::H1,
            Scenario::H2Tls1k => Speaks::H2,
            Scenario::Handshake => Speaks::H1Once,
        }
    }

    /// Bytes of each response body.
    pub fn body_bytes(self) -> usize {
        match self {
            Scenario::H1Tls64k => 64 * 1024,
            _ => 1024,
        }
    }

    /// Requests of the short run. Whatever is done once (lazy tables, the pool's first connection, the allocator's
    /// first pages) has happened after so many.
    pub fn short(self) -> u32 {
        match self {
            Scenario::Handshake => 10,
            _ => 100,
        }
    }

    /// Requests of the long run. What it has more than the short one is what is counted.
    pub fn long(self) -> u32 {
        match self {
            Scenario::Handshake => 60,
            Scenario::H1Tls64k => 300,
            _ => 600,
        }
    }
}

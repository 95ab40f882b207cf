//! The table: all sites, immutable, published whole through one `ArcSwap`.
//!
//! Owns the shape of what a request sees and the lookups on it. Does not change: a new table is built beside the old
//! one and stored (the driver is the only one who does). A request loads it once and keeps what it loaded.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::HashMap;
use http::header::{HeaderName, HeaderValue};

use crate::host::{Host, comparable};
use crate::inflight::Inflight;
use crate::slot::Slot;
use crate::upstream::{Health, Upstream};

/// Where the published table is found. `load()` it once per request.
pub type Published = ArcSwap<Table>;

/// All sites at one moment.
#[derive(Debug)]
pub struct Table {
    /// Counts published changes; it never falls, also over restarts.
    pub generation: u64,
    sites: Vec<Arc<Site>>,
    names: HashMap<Host, (usize, NameRole)>,
}

/// What a name is to its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRole {
    /// The site answers under this name.
    Canonical,
    /// Requests are redirected to the canonical host.
    Alias,
}

impl Table {
    /// A table of these sites. Names are unique: the configuration was checked.
    pub fn new(generation: u64, sites: Vec<Arc<Site>>) -> Table {
        let mut names = HashMap::default();
        for (index, site) in sites.iter().enumerate() {
            names.insert(site.settings.host.clone(), (index, NameRole::Canonical));
            for alias in &site.settings.aliases {
                names.insert(alias.clone(), (index, NameRole::Alias));
            }
        }
        Table {
            generation,
            sites,
            names,
        }
    }

    /// The site that a name belongs to. The name has no port; case and one trailing dot do not matter.
    pub fn by_name(&self, name: &str) -> Option<(&Arc<Site>, NameRole)> {
        let (index, role) = self.names.get(&*comparable(name))?;
        Some((&self.sites[*index], *role))
    }

    /// The sites in the order of the configuration.
    pub fn sites(&self) -> &[Arc<Site>] {
        &self.sites
    }
}

// === impl Site ===

/// One site as one table has it.
#[derive(Clone, Debug)]
pub struct Site {
    /// What the configuration says of it.
    pub settings: Arc<SiteSettings>,
    /// The generation of the last cutover of this site.
    pub generation: u64,
    /// The slot that gets new requests.
    pub active: Slot,
    /// Why the active slot is trusted.
    pub trust: Trust,
    /// Whether requests are served, held or turned away.
    pub mode: Mode,
    /// Blue and green, by [`Slot::index`].
    pub slots: [SlotView; 2],
}

/// Why a slot became the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Its upstreams answered their probes, or it was the active one at the start. Where they stop answering, requests
    /// go to a healthy standby.
    Probed,
    /// The operator insisted: it is tried first whatever the probes say.
    Forced,
}

/// What is done with a site's requests.
#[derive(Clone, Debug)]
pub enum Mode {
    /// They are forwarded.
    Serving,
    /// They wait in the hold until `resume`, or until their own deadline.
    Paused(Arc<crate::hold::Hold>),
    /// They are answered 503.
    Maintenance,
}

impl Site {
    /// One slot of this site.
    pub fn slot(&self, slot: Slot) -> &SlotView {
        &self.slots[slot.index()]
    }

    /// The same site with new, open counters: what every publication of a cutover starts from.
    pub fn with_new_counters(&self) -> Site {
        let mut site = self.clone();
        for view in &mut site.slots {
            view.inflight = Inflight::new();
        }
        site
    }
}

/// One slot as one table has it.
#[derive(Clone, Debug)]
pub struct SlotView {
    /// One or more.
    pub upstreams: Arc<[Arc<Upstream>]>,
    /// The requests of this table in this slot.
    pub inflight: Arc<Inflight>,
    /// Taken out by `drain`: not used as a backup.
    pub is_drained: bool,
}

impl SlotView {
    /// Whether every upstream was probed up.
    pub fn is_healthy(&self) -> bool {
        self.upstreams.iter().all(|u| u.health() == Health::Up)
    }
}

// === impl SiteSettings ===

/// What the configuration says of one site. Checked: names are unique, each slot has an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSettings {
    /// The canonical host.
    pub host: Host,
    /// Names that are redirected to `host`.
    pub aliases: Vec<Host>,
    /// The active slot of a site that no state file knows.
    pub initial: Slot,
    /// Upstream addresses of blue and green as written (`host:port`), by [`Slot::index`].
    pub upstreams: [Vec<String>; 2],
    /// How upstreams are probed.
    pub health: HealthCheck,
    /// How long a closed slot is waited for.
    pub drain: DrainLimits,
    /// What `pause` may hold.
    pub pause: PauseLimits,
    /// The whole value of `Strict-Transport-Security`, if the site sends one.
    pub strict_transport_security: Option<String>,
    /// Whether only trusted proxies are served.
    pub only_trusted: bool,
    /// What is changed in responses of the upstreams.
    pub response_fields: ResponseFields,
}

/// Fields that a site sets in the responses of its upstreams, and such that it takes out. Checked: no field of
/// framing or of the connection is among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseFields {
    /// Put in the place of what the upstream sent under the name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Taken out.
    pub remove: Vec<HeaderName>,
}

/// One health request and what is expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// Origin-form, for example `/api/ping`.
    pub path: String,
    /// The `Host` of the request; the canonical host unless configured.
    pub host: String,
    /// `GET` or `HEAD`.
    pub method: String,
    /// The status that counts as healthy. Nothing else does, redirects included.
    pub expect: u16,
    /// Time between two probes of one upstream.
    pub interval: Duration,
    /// Time for one probe: connect, send, head read.
    pub timeout: Duration,
    /// k: this many good probes ...
    pub pass: u32,
    /// n: ... of this many. `1 <= k <= n`.
    pub of: u32,
}

/// How long `switch` waits for the old slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainLimits {
    /// For requests; those that are left then go on, uncounted by the reply.
    pub requests: Duration,
    /// For tunnels; those that are left then are closed (websocket 1001).
    pub tunnels: Duration,
}

/// What `pause` may hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseLimits {
    /// Requests that may wait; the next one gets 503.
    pub waiting_max: usize,
    /// The longest that one request waits; then 503.
    pub wait_max: Duration,
    /// `resume` lets the waiting ones go evenly over this time.
    pub spread: Duration,
}

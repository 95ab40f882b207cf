//! What a change makes of the state and of the table.
//!
//! Owns the building of the next state and the next table from the last ones. Pure but for the resolving of names; it
//! neither stores nor publishes, the driver does.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tracing::warn;

use crate::host::Host;
use crate::inflight::Inflight;
use crate::slot::Slot;
use crate::state::{SiteState, State};
use crate::table::{Mode, Site, SiteSettings, SlotView, Table, Trust};
use crate::upstream::Upstream;

/// A change that raises the generation.
#[derive(Clone, Debug)]
pub enum Change {
    /// This slot becomes the active one of the site, for this reason.
    Activate(Host, Slot, Trust),
    /// This standby slot is taken out of use (`true`) or put back.
    MarkDrained(Host, Slot, bool),
    /// The site answers 503 (`true`) or serves again.
    Maintenance(Host, bool),
    /// The configuration was read again.
    Sites(Arc<[SiteSettings]>, Arc<Resolved>),
}

/// A counter that the next table does not have; its requests go on.
#[derive(Clone, Debug)]
pub struct Retired {
    /// The site.
    pub host: Host,
    /// The slot that the requests are in.
    pub slot: Slot,
    /// The counter.
    pub inflight: Arc<Inflight>,
    /// Whether it is to be closed once the next table is published.
    pub is_to_be_closed: bool,
}

/// The next table, and what it leaves behind.
#[derive(Debug)]
pub struct Next {
    /// To be published.
    pub table: Table,
    /// Counters that are not in it.
    pub retired: Vec<Retired>,
}

// === impl Change ===

impl Change {
    /// The state once this change is made, one generation on.
    pub fn to_state(&self, last: &State) -> State {
        let mut state = last.clone();
        state.generation += 1;
        let generation = state.generation;
        match self {
            Change::Activate(host, slot, _) => {
                if let Some(site) = state.sites.get_mut(host) {
                    site.previous = Some(site.active);
                    site.active = *slot;
                    site.generation = generation;
                    site.drained.retain(|drained| drained != slot);
                }
            }
            Change::MarkDrained(host, slot, is_drained) => {
                if let Some(site) = state.sites.get_mut(host) {
                    site.drained.retain(|drained| drained != slot);
                    if *is_drained {
                        site.drained.push(*slot);
                    }
                }
            }
            Change::Maintenance(host, is_on) => {
                if let Some(site) = state.sites.get_mut(host) {
                    site.maintenance = *is_on;
                }
            }
            Change::Sites(sites, _) => add_new_sites(&mut state, sites),
        }
        state
    }

    /// The table once this change is made; `state` is what [`Change::to_state`] gave.
    pub fn to_table(&self, last: &Table, state: &State) -> Next {
        match self {
            Change::Activate(host, slot, trust) => {
                let activated = |site: &Site| {
                    let mut site = site.with_new_counters();
                    site.active = *slot;
                    site.trust = *trust;
                    site.generation = state.generation;
                    site.slots[slot.index()].is_drained = false;
                    site
                };
                replaced(last, state.generation, host, activated)
            }
            Change::MarkDrained(host, slot, is_drained) => {
                let marked = |site: &Site| {
                    let mut site = site.clone();
                    let view = &mut site.slots[slot.index()];
                    view.is_drained = *is_drained;
                    if *is_drained {
                        view.inflight = Inflight::new();
                    }
                    site
                };
                replaced(last, state.generation, host, marked)
            }
            Change::Maintenance(host, is_on) => {
                let mode = if *is_on {
                    Mode::Maintenance
                } else {
                    Mode::Serving
                };
                with_mode(last, state.generation, host, &mode)
            }
            Change::Sites(sites, resolved) => reloaded(last, state, sites, resolved),
        }
    }
}

/// The table with which a daemon starts.
pub fn first_table(state: &State, sites: &[SiteSettings]) -> Table {
    let nothing = Table::new(state.generation, Vec::new());
    reloaded(&nothing, state, sites, &resolve(sites)).table
}

/// What the upstream addresses of some sites stand for.
pub type Resolved = HashMap<String, Vec<SocketAddr>>;

/// Looks up what the addresses of these sites stand for now. Blocks on the resolver where they are names. A name that
/// cannot be resolved is no reason not to start: the prober tries again.
pub fn resolve(sites: &[SiteSettings]) -> Resolved {
    let resolved = |address: &String| match address.to_socket_addrs() {
        Ok(addresses) => (address.clone(), addresses.collect()),
        Err(error) => {
            warn!(address, %error, "cannot resolve an upstream yet");
            (address.clone(), Vec::new())
        }
    };
    let addresses = sites
        .iter()
        .flat_map(|site| site.upstreams.iter().flatten());
    addresses.map(resolved).collect()
}

/// The state file's sites and those that it does not know yet, each at its `initial` slot.
pub fn add_new_sites(state: &mut State, sites: &[SiteSettings]) {
    let generation = state.generation;
    for settings in sites {
        state
            .sites
            .entry(settings.host.clone())
            .or_insert_with(|| SiteState {
                active: settings.initial,
                previous: None,
                generation,
                maintenance: false,
                drained: Vec::new(),
            });
    }
}

/// The same table with one site in another mode.
pub fn with_mode(last: &Table, generation: u64, host: &Host, mode: &Mode) -> Next {
    replaced(last, generation, host, |site| Site {
        mode: mode.clone(),
        ..site.clone()
    })
}

fn replaced(last: &Table, generation: u64, host: &Host, change: impl Fn(&Site) -> Site) -> Next {
    let mut retired = Vec::new();
    let replace = |site: &Arc<Site>| {
        if site.settings.host != *host {
            return Arc::clone(site);
        }
        let next = change(site);
        retire(site, Some(&next), true, &mut retired);
        Arc::new(next)
    };
    let sites = last.sites().iter().map(replace).collect();
    Next {
        table: Table::new(generation, sites),
        retired,
    }
}

fn reloaded(last: &Table, state: &State, settings: &[SiteSettings], resolved: &Resolved) -> Next {
    let find = |host: &Host| last.sites().iter().find(|site| site.settings.host == *host);
    let sites: Vec<Arc<Site>> = settings
        .iter()
        .map(|settings| {
            let last = find(&settings.host);
            Arc::new(reloaded_site(last, state, settings, resolved))
        })
        .collect();
    let table = Table::new(state.generation, sites);
    let mut retired = Vec::new();
    for site in last.sites() {
        let next = table
            .sites()
            .iter()
            .find(|next| next.settings.host == site.settings.host);
        // Not closed: a request that has just loaded the old table is served by it rather than turned away.
        retire(site, next.map(Arc::as_ref), false, &mut retired);
    }
    Next { table, retired }
}

fn reloaded_site(
    last: Option<&Arc<Site>>,
    state: &State,
    settings: &SiteSettings,
    resolved: &Resolved,
) -> Site {
    let stored = state.sites.get(&settings.host);
    let view = |slot: Slot| {
        let last = last.map(|site| site.slot(slot));
        let addresses = &settings.upstreams[slot.index()];
        if let Some(view) = last.filter(|view| has_addresses(view, addresses)) {
            return view.clone();
        }
        SlotView {
            upstreams: addresses
                .iter()
                .map(|address| kept_or_new(last, address, resolved))
                .collect(),
            inflight: Inflight::new(),
            is_drained: stored.is_some_and(|site| site.drained.contains(&slot)),
        }
    };
    let stored_mode = match stored.is_some_and(|site| site.maintenance) {
        true => Mode::Maintenance,
        false => Mode::Serving,
    };
    Site {
        settings: Arc::new(settings.clone()),
        generation: stored.map_or(state.generation, |site| site.generation),
        active: stored.map_or(settings.initial, |site| site.active),
        trust: last.map_or(Trust::Probed, |site| site.trust),
        mode: last.map_or(stored_mode, |site| site.mode.clone()),
        slots: Slot::BOTH.map(view),
    }
}

fn has_addresses(view: &SlotView, addresses: &[String]) -> bool {
    view.upstreams.len() == addresses.len()
        && view
            .upstreams
            .iter()
            .zip(addresses)
            .all(|(upstream, address)| upstream.address == *address)
}

fn kept_or_new(last: Option<&SlotView>, address: &str, resolved: &Resolved) -> Arc<Upstream> {
    last.and_then(|view| {
        view.upstreams
            .iter()
            .find(|upstream| upstream.address == address)
    })
    .map_or_else(
        || Upstream::new(address, resolved.get(address).cloned().unwrap_or_default()),
        Arc::clone,
    )
}

fn retire(site: &Site, next: Option<&Site>, is_to_be_closed: bool, retired: &mut Vec<Retired>) {
    for slot in Slot::BOTH {
        let inflight = &site.slot(slot).inflight;
        if next.is_none_or(|next| !Arc::ptr_eq(inflight, &next.slot(slot).inflight)) {
            retired.push(Retired {
                host: site.settings.host.clone(),
                slot,
                inflight: Arc::clone(inflight),
                is_to_be_closed,
            });
        }
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;

//! The reply of `status`: all sites as one moment has them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::Driver;
use crate::cutover::Holder;
use crate::host::Host;
use crate::slot::Slot;
use crate::table::{Mode, Site};
use crate::upstream::Upstream;

/// The fields of the reply; one site only if one is named.
pub(super) fn of_sites(driver: &Driver, only: Option<&Host>) -> Map<String, Value> {
    let table = driver.published.load();
    let sites: Vec<Value> = table
        .sites()
        .iter()
        .filter(|site| only.is_none_or(|only| site.settings.host == *only))
        .map(|site| of_site(driver, site))
        .collect();
    Map::from_iter([
        ("ok".to_owned(), json!(true)),
        ("generation".to_owned(), json!(driver.state.generation)),
        ("sites".to_owned(), json!(sites)),
    ])
}

fn of_site(driver: &Driver, site: &Site) -> Value {
    let host = &site.settings.host;
    let cutover = driver.cutovers.get(host);
    let (mode, waiting) = match &site.mode {
        Mode::Serving => ("serving", 0),
        Mode::Paused(hold) => ("paused", hold.waiting()),
        Mode::Maintenance => ("maintenance", 0),
    };
    let holder = cutover.and_then(|cutover| cutover.holder());
    let holder = holder.map(|holder| holder_object(holder));
    json!({
        "host": host.as_str(),
        "aliases": site.settings.aliases.iter().map(Host::as_str).collect::<Vec<_>>(),
        "active": site.active,
        "previous": cutover.and_then(|cutover| cutover.previous()),
        "generation": site.generation,
        "mode": mode,
        "waiting": waiting,
        "cutover": cutover.map_or("steady", |cutover| cutover.stage_name()),
        "holder": holder,
        "slots": {
            "blue": of_slot(driver, site, Slot::Blue),
            "green": of_slot(driver, site, Slot::Green),
        },
    })
}

fn of_slot(driver: &Driver, site: &Site, slot: Slot) -> Value {
    let view = site.slot(slot);
    let host = &site.settings.host;
    let retired_tunnels: usize = driver
        .retired_of(host, slot)
        .map(|inflight| inflight.tunnels())
        .sum();
    let sum = |counter: fn(&Upstream) -> &AtomicU64| -> u64 {
        let counters = view.upstreams.iter().map(|upstream| counter(upstream));
        counters
            .map(|counter| counter.load(Ordering::Relaxed))
            .sum()
    };
    let reserved = driver
        .reservation(host, slot)
        .map(|reserved| holder_object(&reserved.holder));
    json!({
        "healthy": view.is_healthy(),
        "drained": view.is_drained,
        "reserved": reserved,
        "in_flight": view.inflight.count() + driver.retired_count(host, slot),
        "tunnels": view.inflight.tunnels() + retired_tunnels,
        "requests": sum(|upstream| &upstream.requests),
        "server_errors": sum(|upstream| &upstream.server_errors),
        "upstreams": view.upstreams.iter().map(|upstream| of_upstream(upstream)).collect::<Vec<_>>(),
    })
}

fn holder_object(holder: &Holder) -> Value {
    json!({"command": holder.command, "uid": holder.uid, "pid": holder.pid, "since": holder.since})
}

fn of_upstream(upstream: &Upstream) -> Value {
    json!({
        "address": upstream.address,
        "health": upstream.health(),
        "marked": upstream.is_marked(Instant::now()),
        "in_flight": upstream.in_flight.load(Ordering::Relaxed),
        "queued": upstream.room.count().1,
        "requests": upstream.requests.load(Ordering::Relaxed),
        "server_errors": upstream.server_errors.load(Ordering::Relaxed),
        "last_failure": upstream.last_failure.load_full().map(|failure| failure.to_string()),
    })
}

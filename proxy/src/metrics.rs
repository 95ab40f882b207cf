//! What is counted, and how it is shown to Prometheus.
//!
//! Owns the counters and the text. Counts of the table (health, requests in flight, generations) are read from the
//! published table when somebody asks, so they can never differ from it.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use mana_control::{Health, Site, Slot, Table};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::access::Record;

/// All counters of the process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    faults: IntCounterVec,
    rejects: IntCounterVec,
    /// Requests that were sent a second time because the connection died on the first.
    pub retries: IntCounter,
    backup_uses: IntCounterVec,
    tunnels: IntGauge,
    tunnels_total: IntCounter,
    connections: IntGauge,
    connections_total: IntCounterVec,
    access_dropped: IntGauge,
    generation: IntGauge,
    site_generation: IntGaugeVec,
    slot_active: IntGaugeVec,
    slot_in_flight: IntGaugeVec,
    upstream_up: IntGaugeVec,
    upstream_queued: IntGaugeVec,
    certificate_expiry: IntGaugeVec,
    certificate_next_attempt: IntGaugeVec,
    certificate_attempts: IntCounterVec,
    certificate_files_refused: IntCounterVec,
    challenges: IntGauge,
}

impl Metrics {
    /// All counters at zero.
    ///
    /// # Errors
    /// Two have the same name: a mistake in this file, found by its tests.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let durations = HistogramOpts::new(
            "mana_proxy_request_duration_seconds",
            "Time from a request's head to the last byte of its response; tunnels are left out.",
        )
        .buckets(DURATION_BUCKETS_S.to_vec());
        Ok(Metrics {
            requests: counter(
                "mana_proxy_requests_total",
                "Requests by site, slot and class of the status; the slot is empty where the proxy answered itself.",
                &["site", "slot", "class"],
            )?,
            durations: register(&registry, HistogramVec::new(durations, &["site", "slot"]))?,
            faults: counter(
                "mana_proxy_faults_total",
                "Requests that no upstream answered, or whose answer broke off, by fault.",
                &["site", "fault"],
            )?,
            rejects: counter(
                "mana_proxy_rejects_total",
                "How often a limit was reached, by limit.",
                &["limit"],
            )?,
            retries: register(
                &registry,
                IntCounter::new(
                    "mana_proxy_retries_total",
                    "Requests sent again because their connection died unanswered.",
                ),
            )?,
            backup_uses: counter(
                "mana_proxy_backup_uses_total",
                "Requests that went to the standby slot because the active one could not be reached.",
                &["site"],
            )?,
            tunnels: register(
                &registry,
                IntGauge::new("mana_proxy_tunnels", "Upgraded connections that are open."),
            )?,
            tunnels_total: register(
                &registry,
                IntCounter::new(
                    "mana_proxy_tunnels_total",
                    "Upgraded connections since the start.",
                ),
            )?,
            connections: register(
                &registry,
                IntGauge::new(
                    "mana_proxy_connections",
                    "Client connections that are open.",
                ),
            )?,
            connections_total: counter(
                "mana_proxy_connections_total",
                "Client connections accepted since the start, by scheme.",
                &["scheme"],
            )?,
            access_dropped: register(
                &registry,
                IntGauge::new(
                    "mana_proxy_access_log_dropped_lines",
                    "Access lines that did not fit into the buffer, since the start.",
                ),
            )?,
            generation: register(
                &registry,
                IntGauge::new(
                    "mana_proxy_table_generation",
                    "Generation of the published table.",
                ),
            )?,
            site_generation: gauge(
                "mana_proxy_site_generation",
                "Generation of the site's last cutover.",
                &["site"],
            )?,
            slot_active: gauge(
                "mana_proxy_slot_active",
                "1 for the slot that gets new requests.",
                &["site", "slot"],
            )?,
            slot_in_flight: gauge(
                "mana_proxy_slot_requests_in_flight",
                "Requests and tunnels inside the slot.",
                &["site", "slot"],
            )?,
            upstream_up: gauge(
                "mana_proxy_upstream_up",
                "1 if the probes say that the upstream is up.",
                &["site", "slot", "upstream"],
            )?,
            upstream_queued: gauge(
                "mana_proxy_upstream_queued",
                "Requests that wait for a place in the upstream.",
                &["site", "slot", "upstream"],
            )?,
            certificate_expiry: gauge(
                "mana_proxy_certificate_expiry_timestamp_seconds",
                "When the certificate that is served ends, as Unix time.",
                &["site"],
            )?,
            certificate_next_attempt: gauge(
                "mana_proxy_certificate_next_attempt_timestamp_seconds",
                "When the next certificate is ordered, as Unix time.",
                &["site"],
            )?,
            certificate_attempts: counter(
                "mana_proxy_certificate_attempts_total",
                "Attempts to obtain a certificate from a CA, by result: issued or failed.",
                &["site", "result"],
            )?,
            certificate_files_refused: counter(
                "mana_proxy_certificate_files_refused_total",
                "Changed certificate files that did not hold together; the certificate before is served on.",
                &["site"],
            )?,
            challenges: register(
                &registry,
                IntGauge::new(
                    "mana_proxy_certificate_challenges",
                    "Challenges of CAs that are on offer.",
                ),
            )?,
            registry,
        })
    }

    /// Counts a request that is over. `known` belongs to the worker.
    pub fn finished(&self, record: &Record, took: Duration, known: &KnownCounters) {
        let site = record.site_name().unwrap_or_default();
        if let Some(fault) = record.fault {
            self.faults.with_label_values(&[site, fault.name()]).inc();
            if let Some(limit) = fault.limit() {
                self.reject(limit);
            }
        }
        let mut known = known.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(site) {
            known.insert(site.to_owned(), SiteCounters::default());
        }
        let Some(counters) = known.get_mut(site) else {
            return;
        };
        let slot = &mut counters.0[record.slot().map_or(2, Slot::index)];
        let slot_name = record.slot().map(Slot::as_str).unwrap_or_default();
        let class = class(record.status().as_u16());
        slot.by_class[class.0]
            .get_or_insert_with(|| self.requests.with_label_values(&[site, slot_name, class.1]))
            .inc();
        if !record.is_tunnel() {
            slot.duration
                .get_or_insert_with(|| self.durations.with_label_values(&[site, slot_name]))
                .observe(took.as_secs_f64());
        }
    }

    /// Counts something that was turned away by a limit.
    pub fn reject(&self, limit: &str) {
        self.rejects.with_label_values(&[limit]).inc();
    }

    /// Counts a request that the standby slot took over.
    pub fn backup_used(&self, site: &Site) {
        let host = site.settings.host.as_str();
        self.backup_uses.with_label_values(&[host]).inc();
    }

    /// Counts a connection in.
    pub fn accepted(&self, scheme: &str) {
        self.connections_total.with_label_values(&[scheme]).inc();
    }

    /// Tunnels that are open.
    pub fn tunnels_open(&self) -> usize {
        usize::try_from(self.tunnels.get()).unwrap_or(0)
    }

    /// Counts a tunnel for as long as the result lives.
    pub fn tunnel_opened(&self) -> OpenTunnel {
        self.tunnels.inc();
        self.tunnels_total.inc();
        OpenTunnel(self.tunnels.clone())
    }

    /// Notes when the certificate of a site ends.
    pub fn certificate(&self, site: &str, not_after: std::time::SystemTime) {
        self.certificate_expiry
            .with_label_values(&[site])
            .set(unix_s(not_after));
    }

    /// Forgets a site that has left the configuration: what is not served must not alarm anybody.
    pub fn certificate_left(&self, site: &str) {
        self.attempts_left(site);
        // Nothing to remove is nothing wrong.
        self.certificate_expiry.remove_label_values(&[site]).ok();
        self.certificate_files_refused
            .remove_label_values(&[site])
            .ok();
    }

    fn attempts_left(&self, site: &str) {
        // Whatever was never counted cannot be removed, and need not be.
        self.certificate_next_attempt
            .remove_label_values(&[site])
            .ok();
        for result in ["issued", "failed"] {
            self.certificate_attempts
                .remove_label_values(&[site, result])
                .ok();
        }
    }

    /// Notes how many challenges are on offer.
    pub fn challenges(&self, count: usize) {
        self.challenges
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// A family without metrics, which the encoder refuses; cannot happen with what is registered here.
    pub fn render(
        &self,
        table: &Table,
        connections: usize,
        access_dropped: u64,
    ) -> Result<String, prometheus::Error> {
        let int = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.connections.set(int(connections));
        self.access_dropped
            .set(i64::try_from(access_dropped).unwrap_or(i64::MAX));
        self.generation
            .set(i64::try_from(table.generation).unwrap_or(i64::MAX));
        // What left the table leaves the page.
        for family in [
            &self.site_generation,
            &self.slot_active,
            &self.slot_in_flight,
            &self.upstream_up,
            &self.upstream_queued,
        ] {
            family.reset();
        }
        for site in table.sites() {
            self.show_site(site);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn show_site(&self, site: &Site) {
        let host = site.settings.host.as_str();
        self.site_generation
            .with_label_values(&[host])
            .set(i64::try_from(site.generation).unwrap_or(i64::MAX));
        for slot in Slot::BOTH {
            let view = site.slot(slot);
            self.slot_active
                .with_label_values(&[host, slot.as_str()])
                .set(i64::from(slot == site.active));
            let mut in_flight = 0;
            for upstream in view.upstreams.iter() {
                in_flight += upstream.in_flight.load(Ordering::Relaxed);
                self.upstream_up
                    .with_label_values(&[host, slot.as_str(), &upstream.address])
                    .set(i64::from(upstream.health() == Health::Up));
                let (_, queued) = upstream.room.count();
                self.upstream_queued
                    .with_label_values(&[host, slot.as_str(), &upstream.address])
                    .set(i64::try_from(queued).unwrap_or(i64::MAX));
            }
            self.slot_in_flight
                .with_label_values(&[host, slot.as_str()])
                .set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        }
    }
}

impl mana_certs::renew::Observe for Metrics {
    fn left(&self, host: &str) {
        self.attempts_left(host);
    }

    fn served(&self, host: &str, not_after: std::time::SystemTime) {
        self.certificate(host, not_after);
    }

    fn next_attempt(&self, host: &str, at: std::time::SystemTime) {
        self.certificate_next_attempt
            .with_label_values(&[host])
            .set(unix_s(at));
    }

    fn attempted(&self, host: &str, is_issued: bool) {
        let result = if is_issued { "issued" } else { "failed" };
        self.certificate_attempts
            .with_label_values(&[host, result])
            .inc();
    }

    fn refused(&self, host: &str) {
        self.certificate_files_refused
            .with_label_values(&[host])
            .inc();
    }
}

fn unix_s(time: std::time::SystemTime) -> i64 {
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn class(status: u16) -> (usize, &'static str) {
    match status {
        100..200 => (0, "1xx"),
        200..300 => (1, "2xx"),
        300..400 => (2, "3xx"),
        400..500 => (3, "4xx"),
        _ => (4, "5xx"),
    }
}

/// The counters that one worker has looked up before: finding one by its labels costs more than counting. Bounded by the
/// sites that were ever configured.
#[derive(Default)]
pub struct KnownCounters(Mutex<HashMap<String, SiteCounters>>);

/// Blue, green, and the proxy itself.
#[derive(Default)]
struct SiteCounters([SlotCounters; 3]);

#[derive(Default)]
struct SlotCounters {
    by_class: [Option<IntCounter>; 5],
    duration: Option<Histogram>,
}

/// A tunnel in the count of open ones.
pub struct OpenTunnel(IntGauge);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// From half a millisecond, a static file of a local upstream, to a minute, the slowest answer that is waited for.
const DURATION_BUCKETS_S: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::site;

    #[test]
    fn the_page_shows_the_table_and_forgets_what_left_it() {
        let metrics = Metrics::new().expect("names differ");
        let table = Table::new(7, vec![Arc::new(site("mana.so", &[]))]);
        metrics.reject("head_bytes");
        let page = metrics.render(&table, 3, 0).expect("renders");
        for line in [
            "mana_proxy_table_generation 7",
            "mana_proxy_connections 3",
            "mana_proxy_slot_active{site=\"mana.so\",slot=\"blue\"} 1",
            "mana_proxy_slot_active{site=\"mana.so\",slot=\"green\"} 0",
            "mana_proxy_rejects_total{limit=\"head_bytes\"} 1",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
        let page = metrics
            .render(&Table::new(8, Vec::new()), 0, 0)
            .expect("renders");
        assert!(!page.contains("mana.so"), "{page}");
    }

    #[test]
    fn a_site_that_has_left_has_no_certificate_to_watch() {
        use mana_certs::renew::Observe;
        let metrics = Metrics::new().expect("names differ");
        let now = std::time::SystemTime::now();
        for host in ["a.so", "b.so"] {
            metrics.served(host, now);
            metrics.next_attempt(host, now);
            metrics.attempted(host, true);
            metrics.attempted(host, false);
            metrics.refused(host);
        }
        let table = Table::new(1, Vec::new());
        let page = || metrics.render(&table, 0, 0).expect("renders");
        metrics.left("a.so");
        assert_eq!(page().matches("site=\"a.so\"").count(), 2, "{}", page());
        metrics.certificate_left("a.so");
        assert!(!page().contains("a.so"), "{}", page());
        assert_eq!(page().matches("site=\"b.so\"").count(), 5);
    }
}

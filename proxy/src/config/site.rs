//! Reads one `[[site]]`. What has to hold across sites is in `check`.

use std::time::Duration;

use mana_control::table::{DrainLimits, HealthCheck, PauseLimits, ResponseFields};
use mana_control::{Host, SiteSettings, Slot};
use toml::de::DeValue;

use super::addresses::{self, UpstreamAddress};
use super::deploy::DeployedSite;
use super::fault::At;
use super::response_fields::read_response_fields;
use super::section::{Parsed, Section, wrong_type};
use super::values::{self, WAIT, WAIT_OR_NONE};
use super::{CertificateSource, SiteConfig};

/// A site with the lines that its names and addresses stand in. What is missing or faulty was recorded.
pub(super) struct SiteDraft {
    pub(super) host: Option<At<Host>>,
    pub(super) aliases: Vec<At<Host>>,
    /// By [`Slot::index`].
    pub(super) upstreams: [Vec<At<UpstreamAddress>>; 2],
    initial: Slot,
    certificate: Option<CertificateSource>,
    health: HealthCheck,
    drain: DrainLimits,
    pause: PauseLimits,
    strict_transport_security: Option<String>,
    pub(super) only_trusted: Option<At<bool>>,
    response_fields: ResponseFields,
}

/// Upstreams of one slot.
const UPSTREAMS_MAX: usize = 64;
/// Probes that a verdict on health looks back on.
const PROBES_MAX: u32 = 100;
/// Requests that `pause` may hold, each with a connection.
const WAITING_MAX: usize = 1_000_000;

// === impl SiteDraft ===

impl SiteDraft {
    /// Reads all keys of a site and names those that are none.
    pub(super) fn read(mut section: Section<'_>) -> SiteDraft {
        let host = section.required("host", r#""mana.so""#, addresses::host);
        let canonical = host.as_ref().map(|at| at.value.to_string());
        let draft = SiteDraft {
            aliases: section.list("aliases", addresses::host),
            initial: section.or("initial", Slot::Blue, values::slot),
            certificate: read_certificate(&mut section),
            health: read_health(section.section("health"), canonical.unwrap_or_default()),
            upstreams: Slot::BOTH.map(|slot| read_upstreams(&mut section, slot)),
            drain: read_drain(section.section("drain")),
            pause: read_pause(section.section("pause")),
            strict_transport_security: section
                .optional("hsts", values::transport_security)
                .map(|at| at.value),
            only_trusted: section.optional("only_trusted", values::flag),
            response_fields: read_response_fields(&mut section),
            host,
        };
        section.finish();
        draft
    }

    /// What a deploy has to know of it; none if its host is missing or faulty.
    pub(super) fn deployed(&self) -> Option<DeployedSite> {
        Some(DeployedSite {
            host: self.host.as_ref()?.value.clone(),
            drain: self.drain.requests + self.drain.tunnels,
        })
    }

    /// The site; none if a key that it cannot be without was missing or faulty, which then was recorded.
    pub(super) fn build(self) -> Option<SiteConfig> {
        let as_written =
            |slot: Vec<At<UpstreamAddress>>| slot.into_iter().map(|at| at.value.text).collect();
        Some(SiteConfig {
            certificate: self.certificate?,
            settings: SiteSettings {
                host: self.host?.value,
                aliases: self.aliases.into_iter().map(|at| at.value).collect(),
                initial: self.initial,
                upstreams: self.upstreams.map(as_written),
                health: self.health,
                drain: self.drain,
                pause: self.pause,
                strict_transport_security: self.strict_transport_security,
                only_trusted: self.only_trusted.is_some_and(|at| at.value),
                response_fields: self.response_fields,
            },
        })
    }
}

fn read_upstreams(section: &mut Section<'_>, slot: Slot) -> Vec<At<UpstreamAddress>> {
    let key = slot.as_str();
    let example = r#"["localhost:4000"]"#;
    let length = section.required(key, example, |value| match value.as_array() {
        Some(array) if (1..=UPSTREAMS_MAX).contains(&array.len()) => Ok(()),
        Some(array) => Err(format!(
            "{} upstreams are out of range: a slot has from 1 to {UPSTREAMS_MAX}",
            array.len()
        )),
        None => Err(wrong_type(value, &format!("an array: {example}"))),
    });
    match length {
        Some(_) => section.list(key, addresses::upstream),
        None => Vec::new(),
    }
}

fn read_certificate(section: &mut Section<'_>) -> Option<CertificateSource> {
    const FORMS: &str = r#""acme", "self-signed" or { chain = "cert.pem", key = "key.pem" }"#;

    if let Some(mut files) = section.section_if_table("certificate") {
        let chain = files.required("chain", r#""cert.pem""#, values::path);
        let key = files.required("key", r#""key.pem""#, values::path);
        files.finish();
        return Some(CertificateSource::Files {
            chain: chain?.value,
            key: key?.value,
        });
    }
    let word = |value: &DeValue<'_>| -> Parsed<CertificateSource> {
        match value.as_str() {
            Some("self-signed") => Ok(CertificateSource::SelfSigned),
            Some("acme") => Ok(CertificateSource::Acme),
            Some(other) => Err(format!("{other:?} is no certificate source: write {FORMS}")),
            None => Err(wrong_type(value, FORMS)),
        }
    };
    let source = section.required("certificate", FORMS, word);
    source.map(|at| at.value)
}

fn read_health(mut section: Section<'_>, canonical_host: String) -> HealthCheck {
    let health = HealthCheck {
        path: section.or("path", "/".to_owned(), values::request_path),
        host: section.or("host", canonical_host, addresses::host_header),
        method: section.or("method", "GET".to_owned(), method),
        expect: section.or("expect", 200, values::count(100..=599)),
        interval: section.or("interval", Duration::from_secs(1), values::duration(WAIT)),
        timeout: section.or("timeout", Duration::from_secs(2), values::duration(WAIT)),
        pass: section.or("pass", 2, values::count(1..=PROBES_MAX)),
        of: section.or("of", 3, values::count(1..=PROBES_MAX)),
    };
    if health.pass > health.of {
        let (pass, of) = (health.pass, health.of);
        section.fault(
            "pass",
            format!("{pass} of {of} probes cannot pass: pass <= of"),
        );
    }
    section.finish();
    health
}

fn method(value: &DeValue<'_>) -> Parsed<String> {
    match value.as_str() {
        Some(method @ ("GET" | "HEAD")) => Ok(method.to_owned()),
        Some(other) => Err(format!(
            "{other:?} is no method of a probe: write GET or HEAD"
        )),
        None => Err(wrong_type(value, r#""GET" or "HEAD""#)),
    }
}

fn read_drain(mut section: Section<'_>) -> DrainLimits {
    let wait = || values::duration(WAIT_OR_NONE);
    let drain = DrainLimits {
        requests: section.or("requests", Duration::from_secs(30), wait()),
        tunnels: section.or("tunnels", Duration::from_secs(10), wait()),
    };
    section.finish();
    drain
}

fn read_pause(mut section: Section<'_>) -> PauseLimits {
    let pause = PauseLimits {
        waiting_max: section.or("waiting", 1000, values::count(1..=WAITING_MAX)),
        wait_max: section.or("wait", Duration::from_secs(30), values::duration(WAIT)),
        spread: section.or(
            "spread",
            Duration::from_secs(1),
            values::duration(WAIT_OR_NONE),
        ),
    };
    section.finish();
    pause
}

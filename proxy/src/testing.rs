//! Sites for the tests of this crate.

use std::sync::Arc;
use std::time::Duration;

use mana_control::table::{DrainLimits, HealthCheck, PauseLimits};
use mana_control::{Host, Inflight, Mode, Site, SiteSettings, Slot, SlotView, Trust, Upstream};

/// A site with one upstream in each slot, blue active.
pub fn site(host: &str, aliases: &[&str]) -> Site {
    build(host, aliases, &["127.0.0.1:4000"], &["127.0.0.1:4001"])
}

/// The site `mana.so` with these upstreams, blue active.
pub fn site_with(blue: &[&str], green: &[&str]) -> Site {
    build("mana.so", &[], blue, green)
}

fn build(host: &str, aliases: &[&str], blue: &[&str], green: &[&str]) -> Site {
    let name = |text: &str| text.parse::<Host>().expect("a host name");
    let view = |addresses: &[&str]| SlotView {
        upstreams: addresses
            .iter()
            .map(|a| Upstream::new(*a, Vec::new()))
            .collect(),
        inflight: Inflight::new(),
        is_drained: false,
    };
    let owned = |addresses: &[&str]| addresses.iter().map(|a| (*a).to_owned()).collect();
    Site {
        settings: Arc::new(SiteSettings {
            host: name(host),
            aliases: aliases.iter().map(|alias| name(alias)).collect(),
            initial: Slot::Blue,
            upstreams: [owned(blue), owned(green)],
            health: HealthCheck {
                path: "/".to_owned(),
                host: host.to_owned(),
                method: "GET".to_owned(),
                expect: 200,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                pass: 2,
                of: 3,
            },
            drain: DrainLimits {
                requests: Duration::from_secs(30),
                tunnels: Duration::from_secs(10),
            },
            pause: PauseLimits {
                waiting_max: 10,
                wait_max: Duration::from_secs(1),
                spread: Duration::from_secs(1),
            },
            strict_transport_security: None,
            only_trusted: false,
            response_fields: mana_control::table::ResponseFields::default(),
        }),
        generation: 1,
        active: Slot::Blue,
        trust: Trust::Probed,
        mode: Mode::Serving,
        slots: [view(blue), view(green)],
    }
}

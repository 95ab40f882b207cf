//! Values that several tests need. Not in the shipped crate.

use std::time::Duration;

use crate::slot::Slot;
use crate::table::{DrainLimits, HealthCheck, PauseLimits, SiteSettings};

/// A site with one upstream in each slot, short times and k of n = 2 of 3.
pub fn settings(host: &str, blue: &str, green: &str) -> SiteSettings {
    SiteSettings {
        host: host.parse().expect("host"),
        aliases: Vec::new(),
        initial: Slot::Blue,
        upstreams: [vec![blue.to_owned()], vec![green.to_owned()]],
        health: check(),
        drain: DrainLimits {
            requests: Duration::from_secs(30),
            tunnels: Duration::from_secs(10),
        },
        pause: PauseLimits {
            waiting_max: 10,
            wait_max: Duration::from_secs(5),
            spread: Duration::from_millis(100),
        },
        strict_transport_security: None,
    }
}

/// `GET /api/ping`, 200, 2 of 3.
pub fn check() -> HealthCheck {
    HealthCheck {
        path: "/api/ping".to_owned(),
        host: "mana.so".to_owned(),
        method: "GET".to_owned(),
        expect: 200,
        interval: Duration::from_secs(5),
        timeout: Duration::from_millis(500),
        pass: 2,
        of: 3,
    }
}

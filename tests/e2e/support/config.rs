//! The configuration of one proxy under test. The only place that knows how its keys are spelt.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{ALIAS, HOST};

/// A configuration file in the making. Values are TOML as it is written.
#[derive(Clone, Debug)]
pub struct ConfigBuilder {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    sites: Vec<SiteBuilder>,
}

/// One `[[site]]`.
#[derive(Clone, Debug)]
pub struct SiteBuilder {
    keys: BTreeMap<String, String>,
}

// === impl ConfigBuilder ===

impl ConfigBuilder {
    /// Ports chosen by the system, everything else under `run/` of the working directory, one site.
    pub fn new(blue: &[&str], green: &[&str]) -> ConfigBuilder {
        let mut config = ConfigBuilder {
            sections: BTreeMap::new(),
            sites: vec![SiteBuilder::new(HOST, blue, green)],
        };
        config.site().set("aliases", &format!("[{ALIAS:?}]"));
        config
            .set("server", "workers", "2")
            .set("listen", "http", r#"["127.0.0.1:0"]"#)
            .set("listen", "https", r#"["127.0.0.1:0"]"#)
            .set("control", "socket", r#""run/control.sock""#)
            .set("state", "dir", r#""run/state""#)
            // Few enough for the descriptors that any machine grants.
            .set("limits", "connections", "1000")
            .set("admin", "listen", r#""127.0.0.1:0""#);
        config
    }

    /// Sets one key of one section.
    pub fn set(&mut self, section: &str, key: &str, value: &str) -> &mut ConfigBuilder {
        self.sections
            .entry(section.to_owned())
            .or_default()
            .insert(key.to_owned(), value.to_owned());
        self
    }

    /// The first site.
    pub fn site(&mut self) -> &mut SiteBuilder {
        &mut self.sites[0]
    }

    /// One more site.
    pub fn add_site(&mut self, site: SiteBuilder) -> &mut ConfigBuilder {
        self.sites.push(site);
        self
    }

    /// Time for a TLS handshake, for example `300ms`.
    pub fn handshake_timeout(&mut self, time: &str) -> &mut ConfigBuilder {
        self.set("timeouts", "handshake", &format!("{time:?}"))
    }

    /// Time for a whole request head.
    pub fn head_timeout(&mut self, time: &str) -> &mut ConfigBuilder {
        self.set("timeouts", "request_head", &format!("{time:?}"))
    }

    /// Time that a connection may be idle between requests.
    pub fn idle_timeout(&mut self, time: &str) -> &mut ConfigBuilder {
        self.set("timeouts", "idle", &format!("{time:?}"))
    }

    /// Time for an upstream to begin its answer.
    pub fn response_timeout(&mut self, time: &str) -> &mut ConfigBuilder {
        self.set("timeouts", "response_head", &format!("{time:?}"))
    }

    /// Time for requests in flight to finish after SIGTERM.
    pub fn shutdown_deadline(&mut self, time: &str) -> &mut ConfigBuilder {
        self.set("server", "shutdown_deadline", &format!("{time:?}"))
    }

    /// Bytes of a request head.
    pub fn head_bytes_max(&mut self, bytes: usize) -> &mut ConfigBuilder {
        self.set("limits", "head_bytes", &bytes.to_string())
    }

    /// Writes the access log to a file.
    pub fn access_log(&mut self, path: &str) -> &mut ConfigBuilder {
        self.set("access_log", "to", &format!("{path:?}"))
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            writeln!(text, "[{section}]").unwrap();
            write_keys(&mut text, keys);
        }
        for site in &self.sites {
            writeln!(text, "[[site]]").unwrap();
            write_keys(&mut text, &site.keys);
        }
        text
    }
}

fn write_keys(text: &mut String, keys: &BTreeMap<String, String>) {
    for (key, value) in keys {
        writeln!(text, "{key} = {value}").unwrap();
    }
    text.push('\n');
}

// === impl SiteBuilder ===

impl SiteBuilder {
    /// A site with a self-signed certificate that is probed every 100 ms.
    pub fn new(host: &str, blue: &[&str], green: &[&str]) -> SiteBuilder {
        let mut site = SiteBuilder {
            keys: BTreeMap::new(),
        };
        site.set("host", &format!("{host:?}"))
            .set("initial", r#""blue""#)
            .set("certificate", r#""self-signed""#)
            .set("blue", &format!("{blue:?}"))
            .set("green", &format!("{green:?}"))
            .health("100ms", "1s");
        site
    }

    /// Sets one key.
    pub fn set(&mut self, key: &str, value: &str) -> &mut SiteBuilder {
        self.keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// How often upstreams are probed, and how long a probe may take.
    pub fn health(&mut self, interval: &str, timeout: &str) -> &mut SiteBuilder {
        self.set(
            "health",
            &format!(
                r#"{{ path = "/api/ping", expect = 200, interval = {interval:?}, timeout = {timeout:?} }}"#
            ),
        )
    }

    /// How long a switch waits for requests, and when it cuts tunnels.
    pub fn drain(&mut self, requests: &str, tunnels: &str) -> &mut SiteBuilder {
        self.set(
            "drain",
            &format!("{{ requests = {requests:?}, tunnels = {tunnels:?} }}"),
        )
    }

    /// What `pause` may hold.
    pub fn pause(&mut self, waiting: usize, wait: &str, spread: &str) -> &mut SiteBuilder {
        self.set(
            "pause",
            &format!("{{ waiting = {waiting}, wait = {wait:?}, spread = {spread:?} }}"),
        )
    }

    /// The value of `Strict-Transport-Security`.
    pub fn hsts(&mut self, value: &str) -> &mut SiteBuilder {
        self.set("hsts", &format!("{value:?}"))
    }
}

//! Tests of the configuration as a whole: one file in, a config or faults out.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use mana_control::Slot;
use mana_control::deploy::settings::DeploySettings;

use super::*;
use crate::client_address::AddressHeader;

mod deploy;
mod faults;
mod properties;

/// The file of the project's first page; valid as it stands.
const REFERENCE: &str = r#"[server]
workers = 2                          # default: one per core
[listen]
http  = ["127.0.0.1:8080"]
https = ["127.0.0.1:8443"]
[control]
socket = "run/control.sock"
[state]
dir = "run/state"
[[site]]
host = "mana.so"
aliases = ["www.mana.so"]
initial = "blue"
certificate = "self-signed"          # or { chain = "cert.pem", key = "key.pem" }, later "acme"
health = { path = "/api/ping", expect = 200, interval = "1s", timeout = "2s" }
blue  = ["127.0.0.1:4000"]
green = ["127.0.0.1:4001"]
"#;

/// Nine lines; what is appended starts in line 10, inside the site.
const SMALLEST: &str = r#"# line 1
[listen]
http = ["127.0.0.1:0"]

[[site]]
host = "mana.so"
certificate = "self-signed"
blue = ["127.0.0.1:4000"]
green = ["127.0.0.1:4001"]
"#;

fn parse(text: &str) -> Config {
    Config::parse(text, "f.toml").unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn faults(text: &str) -> Vec<String> {
    let faults = Config::parse(text, "f.toml").expect_err("it has faults");
    faults.iter().map(Fault::to_string).collect()
}

#[test]
fn the_reference_file_is_valid() {
    let config = parse(REFERENCE);
    assert_eq!(config.server.workers, 2);
    assert_eq!(config.listen.https, ["127.0.0.1:8443".parse().unwrap()]);
    assert_eq!(config.control.socket, Path::new("run/control.sock"));
    assert_eq!(config.state_dir, Path::new("run/state"));
    let site = &config.sites[0];
    assert_eq!(site.certificate, CertificateSource::SelfSigned);
    assert_eq!(site.settings.host.as_str(), "mana.so");
    assert_eq!(site.settings.aliases[0].as_str(), "www.mana.so");
    assert_eq!(site.settings.health.path, "/api/ping");
    assert_eq!(
        site.settings.upstreams[Slot::Green.index()],
        ["127.0.0.1:4001"]
    );
}

#[test]
fn a_certificate_of_a_ca_is_asked_for_with_few_words() {
    let text = r#"
[acme]
directory = "https://127.0.0.1:14000/dir"     # default: Let's Encrypt production; "staging" by name
contact   = ["mailto:ops@mana.so"]
ca_root   = "pebble.minica.pem"               # only for private CAs
"#;
    let site = SMALLEST.replace("\"self-signed\"", "\"acme\"");
    let config = parse(&format!("{text}{site}"));
    assert_eq!(config.sites[0].certificate, CertificateSource::Acme);
    assert_eq!(config.acme.ca.directory, "https://127.0.0.1:14000/dir");
    assert_eq!(config.acme.ca.contact, ["mailto:ops@mana.so"]);
    let ca_root = config.acme.ca.ca_root.as_deref();
    assert_eq!(ca_root, Some(Path::new("pebble.minica.pem")));

    let config = parse(&site);
    assert_eq!(config.acme, Acme::default());
    assert!(
        config
            .acme
            .ca
            .directory
            .contains("acme-v02.api.letsencrypt.org")
    );
    let staging = parse(&format!("[acme]\ndirectory = \"staging\"\n{site}"));
    assert!(staging.acme.ca.directory.contains("staging"));
}

#[test]
fn a_fallback_has_the_contacts_of_the_first_ca_and_a_binding_is_never_shown() {
    let text = r#"
[acme]
contact = ["mailto:ops@mana.so"]
eab = { kid = "kid-1", hmac_key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W" }
[acme.fallback]
directory = "https://other.example/dir"
eab = { kid = "kid-2", hmac_key_file = "eab.key" }
"#;
    let config = parse(&format!("{text}{SMALLEST}"));
    let fallback = config.acme.fallback.as_ref().unwrap();
    assert_eq!(fallback.contact, config.acme.ca.contact);
    assert!(matches!(&fallback.eab, Some(EabConfig::File { kid, .. }) if kid == "kid-2"));
    assert!(!format!("{config:?}").contains("zWND"));
}

#[test]
fn the_deployed_file_is_valid_and_shows_the_defaults() {
    let text = include_str!("../../../deploy/mana-proxy.toml");
    let config = parse(text);
    assert_eq!(config.listen.http.len(), 2);
    assert_eq!(config.sites[0].settings.upstreams[0], ["localhost:4000"]);

    // What is commented out there as `# key = value` is the default, or says that it is not.
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_setting(rest) => rest,
            _ => line,
        })
        .collect();
    let spelt_out = parse(&uncommented.join("\n"));
    assert_eq!(spelt_out.timeouts, Timeouts::default());
    assert_eq!(spelt_out.client, ClientRules::default());
    assert_eq!(spelt_out.compression, Compression::default());
    let but_the_body = Limits {
        body_bytes: None,
        ..spelt_out.limits
    };
    assert_eq!(but_the_body, Limits::default());

    let smallest = format!("{SMALLEST}{}", deploy::SECTION);
    let default = parse(&smallest).deploy.unwrap().settings;
    let deploy = spelt_out.deploy.unwrap();
    let but_what_has_no_default = DeploySettings {
        compose_file: default.compose_file.clone(),
        image: None,
        engine: None,
        registry_user: None,
        ..deploy.settings
    };
    assert_eq!(but_what_has_no_default, default);
    assert_eq!(deploy.messages.len(), 2);
}

/// `idle = "75s"  # ...` or `[deploy]`, and not a sentence.
fn is_setting(text: &str) -> bool {
    let is_header = text.starts_with('[') && text.ends_with(']');
    is_header
        || text.split_once(" = ").is_some_and(|(key, _)| {
            key.bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'2')
        })
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = parse(SMALLEST);
    assert_eq!(config.timeouts, Timeouts::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.compression, Compression::default());
    assert_eq!(config.admin, None);
    assert_eq!(config.access_log.to, AccessLogTarget::Stdout);
    assert_eq!(config.state_dir, Path::new("/var/lib/mana-proxy"));
    assert_eq!(
        config.control.socket,
        Path::new("/run/mana-proxy/control.sock")
    );
    assert!((1..=256).contains(&config.server.workers));
    let settings = &config.sites[0].settings;
    assert_eq!(settings.initial, Slot::Blue);
    assert_eq!(settings.health.path, "/");
    assert_eq!(settings.health.host, "mana.so");
    assert_eq!((settings.health.pass, settings.health.of), (2, 3));
    assert_eq!(settings.drain.requests, Duration::from_secs(30));
    assert_eq!(settings.pause.waiting_max, 1000);
    assert_eq!(settings.strict_transport_security, None);
    assert!(!settings.only_trusted);
    assert_eq!(config.client, ClientRules::default());
    assert!(config.listen.proxy_protocol.is_empty());
}

#[test]
fn everything_that_is_written_is_read() {
    let config = parse(
        r#"
compression = { enabled = false, min_bytes = 1, types = ["text/*", "*+json"], gzip_level = 0, streams = 1 }
server = { workers = 1, shutdown_deadline = "0s", upgrade_deadline = "24h" }
admin = { listen = "0.0.0.0:9090", allow_remote = true }
access_log = { to = "./access.log", buffer_lines = 1 }
control = { socket = "c", allow_uids = [1000], allow_gids = [1, 2], group_gid = 0 }
timeouts = { handshake = "500ms", stream_idle = "24h" }
client = { trusted = ["10.0.0.0/8", "192.0.2.1"], address_headers = ["CF-Connecting-IP", "x-forwarded-for"], unlimited = [] }
limits = { head_bytes = "16KiB", uri_bytes = 1_024, body_bytes = "1GiB", pool_idle_per_upstream = 0 }
[listen]
https = ["[::]:443", "0.0.0.0:443", "127.0.0.1:0", "127.0.0.1:0"]
proxy_protocol = ["[::]:443"]
[[site]]
host = "Mana.SO."
initial = "green"
hsts = "max-age=31536000; includeSubDomains; preload"
only_trusted = true
response_headers = { X-Frame-Options = "DENY" }
remove_response_headers = ["Server"]
blue = ["localhost:4000", "[::1]:5000"]
green = ["app.internal:4000", "10.0.0.1:4000"]
[site.certificate]
chain = "cert.pem"
key = "key.pem"
[site.health]
path = "/ping?deep=1"
method = "HEAD"
host = "internal:8080"
expect = 204
interval = "10ms"
timeout = "1ms"
pass = 3
of = 3
[site.drain]
requests = "0s"
tunnels = "5m"
[site.pause]
waiting = 1
wait = "1s"
spread = "0s"
"#,
    );
    assert_eq!(config.limits.head_bytes, 16 * 1024);
    assert_eq!(config.limits.uri_bytes, 1024);
    assert_eq!(config.compression.types, ["text/*", "*+json"]);
    assert_eq!(
        (config.compression.gzip_level, config.compression.streams),
        (0, 1)
    );
    assert_eq!(config.limits.body_bytes, Some(1 << 30));
    assert_eq!(config.timeouts.handshake, Duration::from_millis(500));
    assert_eq!(
        config.access_log.to,
        AccessLogTarget::File("./access.log".into())
    );
    assert_eq!(config.control.allow_gids, [1, 2]);
    assert_eq!(config.control.group_gid, Some(0));
    assert_eq!(config.admin.unwrap().listen.port(), 9090);
    let client = &config.client;
    assert_eq!(client.trusted[1].to_string(), "192.0.2.1/32");
    assert_eq!(
        client.address_headers,
        [AddressHeader::CfConnectingIp, AddressHeader::XForwardedFor]
    );
    assert!(client.unlimited.is_empty());
    assert_eq!(config.listen.proxy_protocol, config.listen.https[..1]);
    let settings = &config.sites[0].settings;
    assert!(settings.only_trusted);
    let fields = &settings.response_fields;
    assert_eq!(fields.set[0].0, http::header::X_FRAME_OPTIONS);
    assert_eq!(fields.remove, [http::header::SERVER]);
    assert_eq!(settings.host.as_str(), "mana.so");
    assert_eq!(settings.initial, Slot::Green);
    assert_eq!(settings.health.method, "HEAD");
    assert_eq!(settings.health.host, "internal:8080");
    assert_eq!(settings.health.expect, 204);
    assert_eq!(settings.drain.requests, Duration::ZERO);
    assert_eq!(settings.pause.waiting_max, 1);
    let files = CertificateSource::Files {
        chain: "cert.pem".into(),
        key: "key.pem".into(),
    };
    assert_eq!(config.sites[0].certificate, files);
}

#[test]
fn an_empty_file_lacks_listeners_and_sites() {
    let found = faults("");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("f.toml:1: listen: nothing to listen on"));
    assert_eq!(
        found[1],
        "f.toml:1: site: is missing: write at least one [[site]]"
    );
}

#[test]
fn what_is_no_toml_is_said_without_guesses_at_the_rest() {
    let found = faults("[listen\nhttp = [\"127.0.0.1:80\"]\nhttps = \n");
    assert!(!found.is_empty());
    for fault in found {
        assert!(fault.contains(": this is no TOML: "), "{fault}");
    }
}

#[test]
fn load_tells_an_unreadable_file_from_a_faulty_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mana-proxy.toml");
    let unreadable = Config::load(&path).unwrap_err();
    assert!(matches!(unreadable, ConfigError::Unreadable { .. }));
    assert!(unreadable.to_string().starts_with("cannot read /"));

    std::fs::write(&path, "a = 1\nb = 1\n[[site]]").unwrap();
    let faulty = Config::load(&path).unwrap_err().to_string();
    assert!(
        faulty.contains(&format!("{}:1: a: unknown key\n", path.display())),
        "{faulty}"
    );

    std::fs::write(&path, REFERENCE).unwrap();
    assert_eq!(Config::load(&path).unwrap(), parse(REFERENCE));

    std::fs::write(
        &path,
        "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1),
    )
    .unwrap();
    assert!(matches!(
        Config::load(&path),
        Err(ConfigError::Unreadable { .. })
    ));
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_not() {
    let old = parse(SMALLEST);
    assert!(needs_restart(&old, &old).is_empty());
    let live = "hsts = \"max-age=1\"\naliases = [\"www.mana.so\"]\n[timeouts]\nidle = \"1s\"\n[limits]\nheaders = 50\n";
    assert!(needs_restart(&old, &parse(&format!("{SMALLEST}{live}"))).is_empty());

    let restart = "[server]\nworkers = 99\nshutdown_deadline = \"1s\"\nupgrade_deadline = \"1s\"\n[control]\nsocket = \"s\"\nallow_uids = [1]\nallow_gids = [1]\ngroup_gid = 1\n\
        [state]\ndir = \"s\"\n[admin]\nlisten = \"[::1]:1\"\n[access_log]\nto = \"off\"\nbuffer_lines = 1\n";
    let new = parse(&format!("{SMALLEST}{restart}").replace("http =", "https ="));
    assert_eq!(
        needs_restart(&old, &new),
        [
            "server.workers",
            "server.shutdown_deadline",
            "server.upgrade_deadline",
            "listen.http",
            "listen.https",
            "control.socket",
            "control.allow_uids",
            "control.allow_gids",
            "control.group_gid",
            "state.dir",
            "admin.listen",
            "access_log.to",
            "access_log.buffer_lines",
        ]
    );
}

#[test]
fn a_socket_path_that_the_kernel_cannot_hold_is_a_fault() {
    let path =
        |length: usize| format!("{SMALLEST}[control]\nsocket = \"{}\"\n", "s".repeat(length));
    assert!(Config::parse(&path(107), "f").is_ok());
    assert!(faults(&path(108))[0].contains("108 bytes; a Unix socket's has at most 107"));
}

#[test]
fn what_is_no_media_type_is_a_fault() {
    for kind in [
        "",
        "*",
        "**",
        "text",
        "Text/html",
        "text/html;a=b",
        "*/*x*",
        "json*",
    ] {
        let text = format!("{SMALLEST}[compression]\ntypes = [{kind:?}]\n");
        assert!(faults(&text)[0].contains("is no media type"), "{kind:?}");
    }
}

//! The walk over the document: sections in, a checked [`Config`] or all faults out.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use mana_control::Host;
use toml::de::{DeTable, DeValue};

use super::acme;
use super::addresses;
use super::check::{self, Listener};
use super::client::read_client;
use super::deploy::DeployDraft;
use super::fault::{At, Fault, Faults};
use super::section::{Parsed, Section};
use super::site::SiteDraft;
use super::values::{self, WAIT, WAIT_OR_NONE};
use super::{
    AccessLog, AccessLogTarget, Admin, Compression, Config, Control, Limits, Listen, Server,
    Timeouts,
};

/// Upper ends of what can be configured; the reasons stand at the settings.
const WORKERS_MAX: usize = 256;
const LOG_LINES_MAX: usize = 1_000_000;
const CONNECTIONS_MAX: usize = 1_000_000;
const RATE_MAX: u32 = 1_000_000;
const REQUESTS_MAX: usize = 1_000_000_000;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Reads and checks a whole file.
pub(super) fn read(text: &str, file: &str) -> Result<Config, Vec<Fault>> {
    let faults = Faults::new(file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut is_understood = true;
    for error in &errors {
        let span = error.span().unwrap_or_default();
        let line = faults.line_of(span.start);
        if error.message() == DUPLICATE_KEY {
            let key = text.get(span).unwrap_or_default();
            faults.add(line, key.escape_debug().to_string(), "is written twice");
        } else {
            is_understood = false;
            faults.add(line, "", format!("this is no TOML: {}", error.message()));
        }
    }
    // What follows a broken line may have been read as something that nobody wrote: faults of it would mislead.
    let config = is_understood.then(|| walk(&faults, document.get_ref()));
    match (config.flatten(), faults.into_sorted()) {
        (Some(config), found) if found.is_empty() => Ok(config),
        (_, found) => Err(found),
    }
}

/// The one error of the TOML parser after which the rest of the document still is what was written.
const DUPLICATE_KEY: &str = "duplicate key";

/// None only if a fault was recorded.
fn walk(faults: &Faults, document: &DeTable<'_>) -> Option<Config> {
    let mut root = Section::root(faults, document);
    let server = read_server(root.section("server"));
    let (listen, mut listeners) = read_listen(root.section("listen"));
    let control = read_control(root.section("control"));
    let state_dir = read_state(root.section("state"));
    let (admin, admin_listener) = read_admin(root.section("admin"));
    listeners.extend(admin_listener);
    let access_log = read_access_log(root.section("access_log"));
    let timeouts = read_timeouts(root.section("timeouts"));
    let limits = read_limits(root.section("limits"));
    let client = read_client(root.section("client"));
    let compression = Compression::read(root.section("compression"));
    let acme = acme::read(root.section("acme"));
    let deploy = DeployDraft::read(root.section("deploy"));
    let sections = root.sections("site");
    let drafts: Vec<SiteDraft> = sections.into_iter().map(SiteDraft::read).collect();
    if !root.has_filled("site") {
        root.fault("site", "is missing: write at least one [[site]]");
    }
    root.finish();
    check::across(faults, &listeners, &drafts);
    check::locks_have_keys(faults, &client, &drafts);
    let hosts: Vec<Host> = drafts
        .iter()
        .filter_map(|draft| Some(draft.host.as_ref()?.value.clone()))
        .collect();
    let deploy = deploy.map(|draft| {
        draft.build(&hosts, |line, reason| {
            faults.add(line, "deploy.site", reason)
        })
    });
    let sites = drafts.into_iter().map(SiteDraft::build);
    Some(Config {
        server,
        listen,
        control,
        state_dir,
        admin,
        access_log,
        timeouts,
        limits,
        client,
        compression,
        acme: acme?,
        // One that is there and faulty is none, and its faults are recorded.
        deploy: deploy.flatten(),
        sites: sites.collect::<Option<Vec<_>>>()?,
    })
}

fn read_server(mut section: Section<'_>) -> Server {
    let cores = available_parallelism().map_or(1, NonZero::get);
    let server = Server {
        workers: section.or(
            "workers",
            cores.min(WORKERS_MAX),
            values::count(1..=WORKERS_MAX),
        ),
        shutdown_deadline: section.or(
            "shutdown_deadline",
            Duration::from_secs(30),
            values::duration(WAIT_OR_NONE),
        ),
        upgrade_deadline: section.or(
            "upgrade_deadline",
            Duration::from_secs(3600),
            values::duration(WAIT_OR_NONE),
        ),
    };
    section.finish();
    server
}

fn read_listen(mut section: Section<'_>) -> (Listen, Vec<Listener>) {
    let http = section.list("http", addresses::socket_address);
    let https = section.list("https", addresses::socket_address);
    let proxy_protocol = section.list("proxy_protocol", addresses::socket_address);
    for at in &proxy_protocol {
        if !http.iter().chain(&https).any(|l| l.value == at.value) {
            let reason = format!("{} is neither in http nor in https", at.value);
            section.fault("proxy_protocol", reason);
        }
    }
    if !section.has_filled("http") && !section.has_filled("https") {
        let reason = r#"nothing to listen on: write http = ["127.0.0.1:8080"] or https = [...]"#;
        section.fault_here(reason);
    }
    section.finish();
    let addresses = |list: &[At<SocketAddr>]| list.iter().map(|at| at.value).collect();
    let listen = Listen {
        http: addresses(&http),
        https: addresses(&https),
        proxy_protocol: addresses(&proxy_protocol),
    };
    let http = http.into_iter().map(|at| ("listen.http", at));
    let https = https.into_iter().map(|at| ("listen.https", at));
    (listen, http.chain(https).collect())
}

fn read_control(mut section: Section<'_>) -> Control {
    let ids = |list: Vec<At<u32>>| list.into_iter().map(|at| at.value).collect();
    let control = Control {
        socket: section.or(
            "socket",
            PathBuf::from("/run/mana-proxy/control.sock"),
            values::socket_path,
        ),
        allow_uids: ids(section.list("allow_uids", values::count(0..=u32::MAX))),
        allow_gids: ids(section.list("allow_gids", values::count(0..=u32::MAX))),
        group_gid: section
            .optional("group_gid", values::count(0..=u32::MAX))
            .map(|at| at.value),
    };
    section.finish();
    control
}

fn read_state(mut section: Section<'_>) -> PathBuf {
    let dir = section.or("dir", PathBuf::from("/var/lib/mana-proxy"), values::path);
    section.finish();
    dir
}

fn read_admin(mut section: Section<'_>) -> (Option<Admin>, Option<Listener>) {
    if !section.is_present() {
        return (None, None);
    }
    let listen = section.required("listen", r#""127.0.0.1:9090""#, addresses::socket_address);
    let allow_remote = section.or("allow_remote", false, values::flag);
    if let Some(at) = &listen
        && !at.value.ip().to_canonical().is_loopback()
        && !allow_remote
    {
        let address = at.value;
        let reason = format!(
            "{address} is reachable from elsewhere and asks for no password: listen on 127.0.0.1 or [::1], \
             or write allow_remote = true"
        );
        section.fault("listen", reason);
    }
    section.finish();
    let admin = listen.as_ref().map(|at| Admin {
        listen: at.value,
        allow_remote,
    });
    (admin, listen.map(|at| ("admin.listen", at)))
}

fn read_access_log(mut section: Section<'_>) -> AccessLog {
    let access_log = AccessLog {
        to: section.or("to", AccessLogTarget::Stdout, access_log_target),
        buffer_lines: section.or("buffer_lines", 8192, values::count(1..=LOG_LINES_MAX)),
    };
    section.finish();
    access_log
}

fn access_log_target(value: &DeValue<'_>) -> Parsed<AccessLogTarget> {
    match values::string(value)? {
        "stdout" => Ok(AccessLogTarget::Stdout),
        "off" => Ok(AccessLogTarget::Off),
        text if text.contains('/') => values::path(value).map(AccessLogTarget::File),
        text => Err(format!(
            "{text:?} is no place for a log: write stdout, off, or a path with a / in it, for example ./{text}"
        )),
    }
}

fn read_timeouts(mut section: Section<'_>) -> Timeouts {
    let default = Timeouts::default();
    let mut wait = |key, default| section.or(key, default, values::duration(WAIT));
    let timeouts = Timeouts {
        handshake: wait("handshake", default.handshake),
        request_head: wait("request_head", default.request_head),
        idle: wait("idle", default.idle),
        client_stall: wait("client_stall", default.client_stall),
        connect: wait("connect", default.connect),
        connect_total: wait("connect_total", default.connect_total),
        response_head: wait("response_head", default.response_head),
        response_stall: wait("response_stall", default.response_stall),
        stream_idle: wait("stream_idle", default.stream_idle),
        upstream_idle: wait("upstream_idle", default.upstream_idle),
        queue_wait: wait("queue_wait", default.queue_wait),
        h2_drain: wait("h2_drain", default.h2_drain),
    };
    if timeouts.connect > timeouts.connect_total {
        let reason = "one attempt cannot take longer than all of them: connect <= connect_total";
        section.fault("connect", reason);
    }
    section.finish();
    timeouts
}

fn read_limits(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    // Both ranges end far below what a `usize` holds.
    let bytes = |size: At<u64>| usize::try_from(size.value).unwrap_or(usize::MAX);
    let limits = Limits {
        connections: section.or(
            "connections",
            default.connections,
            values::count(1..=CONNECTIONS_MAX),
        ),
        connections_per_address: section.or(
            "connections_per_address",
            default.connections_per_address,
            values::count(1..=CONNECTIONS_MAX),
        ),
        requests_per_address: section.or(
            "requests_per_address",
            default.requests_per_address,
            values::count(0..=RATE_MAX),
        ),
        requests_burst: section.or(
            "requests_burst",
            default.requests_burst,
            values::count(1..=10 * RATE_MAX),
        ),
        handshakes: section.or(
            "handshakes",
            default.handshakes,
            values::count(1..=CONNECTIONS_MAX),
        ),
        client_bytes_per_second: section.or(
            "client_bytes_per_second",
            default.client_bytes_per_second,
            values::count(0..=RATE_MAX),
        ),
        h2_control_frames: section.or(
            "h2_control_frames",
            default.h2_control_frames,
            values::count(100..=RATE_MAX),
        ),
        in_flight_per_upstream: section.or(
            "in_flight_per_upstream",
            default.in_flight_per_upstream,
            values::count(1..=CONNECTIONS_MAX),
        ),
        queue_per_upstream: section.or(
            "queue_per_upstream",
            default.queue_per_upstream,
            values::count(0..=CONNECTIONS_MAX),
        ),
        head_bytes: section
            .optional("head_bytes", values::size(KIB..=MIB))
            .map_or(default.head_bytes, bytes),
        headers: section.or("headers", default.headers, values::count(10..=256)),
        uri_bytes: section
            .optional("uri_bytes", values::size(256..=64 * KIB))
            .map_or(default.uri_bytes, bytes),
        body_bytes: section
            .optional("body_bytes", values::size(0..=u64::MAX))
            .map(|at| at.value),
        requests_per_connection: section.or(
            "requests_per_connection",
            default.requests_per_connection,
            values::count(1..=REQUESTS_MAX),
        ),
        h2_streams: section.or("h2_streams", default.h2_streams, values::count(1..=1000)),
        pool_idle_per_upstream: section.or(
            "pool_idle_per_upstream",
            default.pool_idle_per_upstream,
            values::count(0..=10_000),
        ),
        attempts: section.or("attempts", default.attempts, values::count(1..=10)),
        tunnels: section.or(
            "tunnels",
            default.tunnels,
            values::count(1..=CONNECTIONS_MAX),
        ),
    };
    if limits.requests_burst < limits.requests_per_address {
        let reason =
            "one second has more than it permits at once: requests_burst >= requests_per_address";
        section.fault("requests_burst", reason);
    }
    section.finish();
    limits
}

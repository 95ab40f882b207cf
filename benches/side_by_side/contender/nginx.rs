//! nginx: as mana.so ran it, as its manual recommends it, and as the upstream of all others.

use std::fs;
use std::path::Path;

use super::{Place, Scheme};
use crate::Outcome;
use crate::bed::{Bed, HOST};
use crate::process::{Process, pinned};

/// nginx with the configuration that mana-proxy replaces.
///
/// The TLS lines are those that Certbot writes. `http2` is ours: without it there would be no h2 row to compare.
/// So is `keepalive_requests`, which is mana-proxy's default: otherwise the connections of the h2 load end early.
pub(super) fn start_legacy(place: &Place<'_>) -> Outcome<Process> {
    let tls =
        "ssl_session_cache shared:tls:10m; ssl_session_timeout 1440m; ssl_session_tickets off;
               ssl_protocols TLSv1.2 TLSv1.3; ssl_prefer_server_ciphers off;";
    let http = format!(
        "{tls} access_log {}; keepalive_requests 10000;
         upstream mana_backend {{ server 127.0.0.1:{}; server 127.0.0.1:{} backup; }}
         server {{
           {}
           server_name {HOST};
           location / {{
             proxy_pass http://mana_backend;
             proxy_set_header Host $host;
             proxy_set_header X-Real-IP $remote_addr;
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
           }}
         }}",
        place.log.display(),
        place.bed.upstream,
        place.bed.upstream_other,
        listen(place),
    );
    start(place.name, &http, place.port, place.bed.path(), place.core)
}

/// Kept connections, the headers that mana-proxy sets too, and a buffered access log.
pub(super) fn start_tuned(place: &Place<'_>) -> Outcome<Process> {
    let http = format!(
        "ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;
         access_log {} combined buffer=64k flush=1s; keepalive_requests 10000;
         upstream mana_backend {{
           server 127.0.0.1:{}; server 127.0.0.1:{} backup;
           keepalive 256; keepalive_requests 1000000;
         }}
         server {{
           {}
           server_name {HOST};
           location / {{
             proxy_pass http://mana_backend;
             proxy_http_version 1.1;
             proxy_set_header Connection \"\";
             proxy_set_header Host $host;
             proxy_set_header X-Real-IP $remote_addr;
             proxy_set_header X-Forwarded-For $remote_addr;
             proxy_set_header X-Forwarded-Proto $scheme;
           }}
         }}",
        place.log.display(),
        place.bed.upstream,
        place.bed.upstream_other,
        listen(place),
    );
    start(place.name, &http, place.port, place.bed.path(), place.core)
}

fn listen(place: &Place<'_>) -> String {
    let port = place.port;
    let bed: &Bed = place.bed;
    match place.scheme {
        Scheme::Plain => format!("listen 127.0.0.1:{port} backlog=4096;"),
        Scheme::Tls => format!(
            "listen 127.0.0.1:{port} ssl http2 backlog=4096; ssl_certificate {}; ssl_certificate_key {};",
            bed.chain().display(),
            bed.key().display()
        ),
    }
}

/// Starts nginx as one process, without a master: it costs the same per request and cannot leave a worker behind.
pub fn start(name: &str, http: &str, port: u16, directory: &Path, core: usize) -> Outcome<Process> {
    let home = directory.join(name);
    fs::create_dir(&home)?;
    let config = home.join("nginx.conf");
    let own = home.display();
    // Enough for 10 000 clients with a connection to the upstream each.
    let mut text = format!(
        "daemon off; master_process off; pid {own}/pid; error_log stderr;
         events {{ worker_connections 24000; }}
         http {{ {http}\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text.push_str(&format!("{kind}_temp_path {own}/{kind};\n"));
    }
    text.push('}');
    fs::write(&config, text)?;
    let mut command = pinned(core, Path::new("nginx"));
    command
        .arg("-p")
        .arg(&home)
        .arg("-c")
        .arg(&config)
        .args(["-e", "stderr"]);
    Process::start(name, command, port, directory)
}

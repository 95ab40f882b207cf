//! haproxy: one thread, connections to the upstream shared by all clients, probes as often as mana-proxy's.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::{Place, Scheme};
use crate::Outcome;
use crate::process::{Process, pinned};

/// Its log goes to a file by way of stdout, a `write` for each request. By way of syslog, which is usual, it would be a
/// `sendmsg` for each request, and somebody else's time for the file: that is neither cheaper for haproxy nor seen here.
pub(super) fn start(place: &Place<'_>) -> Outcome<Process> {
    let bed = place.bed;
    let port = place.port;
    let (bind, proto) = match place.scheme {
        Scheme::Plain => (format!("127.0.0.1:{port} backlog 4096"), "http"),
        Scheme::Tls => (
            format!(
                "127.0.0.1:{port} backlog 4096 ssl crt {} alpn h2,http/1.1",
                bed.chain_and_key().display()
            ),
            "https",
        ),
    };
    let config = bed.path().join(format!("{}.cfg", place.name));
    // `maxconn` is for 10 000 clients with some to spare; without `no strict-limits` it would not start for somebody who
    // may not open twice as many files.
    fs::write(
        &config,
        format!(
            "global
  nbthread 1
  maxconn 12000
  no strict-limits
  log stdout format raw local0
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  log global
  option httplog
  option forwardfor
  http-reuse always
  timeout connect 1s
  timeout client 75s
  timeout server 60s
  timeout http-request 10s
  timeout http-keep-alive 75s
frontend site
  bind {bind}
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-Proto {proto}
  default_backend slots
backend slots
  option httpchk GET /1k
  default-server check inter 1s
  server blue 127.0.0.1:{blue}
  server green 127.0.0.1:{green} backup
",
            blue = bed.upstream,
            green = bed.upstream_other,
        ),
    )?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(place.log)?;
    let mut command = pinned(place.core, Path::new("haproxy"));
    command.arg("-db").arg("-f").arg(&config);
    Process::start_with_stdout(place.name, command, log, port, bed.path())
}

//! caddy: one core, no administration, HTTP/1.1 and HTTP/2, probes as often as mana-proxy's.

use std::fs;
use std::path::Path;

use super::{Place, Scheme};
use crate::Outcome;
use crate::bed::HOST;
use crate::process::{Process, pinned};

/// The site has no name: caddy would log only those requests whose `Host` has the port as the site has it, and ab sends
/// none. `default_sni` is for clients that name no host, such as ab; the others serve their only certificate to those.
pub(super) fn start(place: &Place<'_>) -> Outcome<Process> {
    let bed = place.bed;
    let home = bed.path().join(place.name);
    fs::create_dir(&home)?;
    let (scheme, tls) = match place.scheme {
        Scheme::Plain => ("http", String::new()),
        Scheme::Tls => (
            "https",
            format!("tls {} {}", bed.chain().display(), bed.key().display()),
        ),
    };
    let config = home.join("Caddyfile");
    fs::write(
        &config,
        format!(
            "{{
  admin off
  auto_https off
  default_sni {HOST}
  log {{
    level ERROR
  }}
  servers {{
    protocols h1 h2
  }}
}}
{scheme}://:{port} {{
  bind 127.0.0.1
  {tls}
  log {{
    output file {log} {{
      roll_disabled
    }}
  }}
  reverse_proxy 127.0.0.1:{blue} 127.0.0.1:{green} {{
    lb_policy first
    health_uri /1k
    health_interval 1s
    header_up X-Real-IP {{remote_host}}
    transport http {{
      versions 1.1
      keepalive_idle_conns_per_host 256
    }}
  }}
}}
",
            port = place.port,
            log = place.log.display(),
            blue = bed.upstream,
            green = bed.upstream_other,
        ),
    )?;
    let mut command = pinned(place.core, Path::new("caddy"));
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(&config)
        .env("GOMAXPROCS", "1")
        .env("HOME", &home)
        .env("XDG_DATA_HOME", &home)
        .env("XDG_CONFIG_HOME", &home);
    Process::start(place.name, command, place.port, bed.path())
}

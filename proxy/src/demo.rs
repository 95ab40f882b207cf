//! What `mana-proxy demo` needs beside the proxy itself: two small upstreams, a configuration, and what to type next.
//!
//! Owns the two listeners of the demo, the text of its configuration file and the words it prints. The proxy before
//! them is the ordinary one (`run.rs`), started from the file at [`CONFIG_PATH`].

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use std::path::Path;

use mana_control::Slot;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::run;

mod upstream;

pub use upstream::start_upstream;

/// Where the demo writes its configuration, so that `mana-proxy reload` finds it.
pub const CONFIG_PATH: &str = "run/mana-proxy.toml";

/// The control socket of the demo.
pub const SOCKET_PATH: &str = "run/control.sock";

/// The state directory of the demo.
pub const STATE_PATH: &str = "run/state";

// === impl DemoUpstreams ===

/// The two upstreams of the demo, bound to free ports of the loopback interface.
#[derive(Debug)]
pub struct DemoUpstreams {
    blue: TcpListener,
    green: TcpListener,
    addresses: [SocketAddr; 2],
}

impl DemoUpstreams {
    /// Binds both to free ports.
    ///
    /// # Errors
    /// [`Error::Upstream`] when the loopback interface has no free port, or none at all.
    pub async fn bind() -> Result<DemoUpstreams, Error> {
        let (blue, blue_address) = bind_free().await?;
        let (green, green_address) = bind_free().await?;
        Ok(DemoUpstreams {
            blue,
            green,
            addresses: [blue_address, green_address],
        })
    }

    /// Where one of them listens.
    pub fn address(&self, slot: Slot) -> SocketAddr {
        self.addresses[slot.index()]
    }

    /// Serves both until the future is dropped.
    pub async fn serve(self) {
        tokio::join!(
            start_upstream(Slot::Blue, self.blue),
            start_upstream(Slot::Green, self.green),
        );
    }
}

async fn bind_free() -> Result<(TcpListener, SocketAddr), Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(Error::Upstream)?;
    let address = listener.local_addr().map_err(Error::Upstream)?;
    Ok((listener, address))
}

// === impl Error ===

/// Why the demo cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of its two front ports cannot be had.
    #[error("cannot listen on {address} for {scheme}")]
    Port {
        /// What was to be bound.
        address: SocketAddr,
        /// `http` or `https`.
        scheme: Scheme,
        /// What to do about it.
        hint: String,
        /// What the system said.
        source: io::Error,
    },
    /// `./run` cannot be written.
    #[error("cannot write the demo's files under ./run")]
    Files(#[source] io::Error),
    /// The configuration under `./run` is not what the demo wrote: never seen.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The proxy could not start.
    #[error(transparent)]
    Run(#[from] run::RunError),
    /// A demo upstream cannot be bound.
    #[error("cannot start the demo upstreams on the loopback interface")]
    Upstream(#[source] io::Error),
}

impl Error {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Port { hint, .. } => Some(hint.clone()),
            Error::Files(_) => Some("start it in a directory that you may write to".to_owned()),
            Error::Run(error) => error.hint(),
            Error::Config(_) | Error::Upstream(_) => None,
        }
    }
}

/// Which of the two front ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// The plain one, which redirects.
    Http,
    /// The one with TLS.
    Https,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
    }
}

/// Says which front port is taken before anything else is started.
///
/// Binds and lets go at once, so a port taken in between is still found by the proxy's own bind; this one exists for
/// the better sentence.
///
/// # Errors
/// [`Error::Port`], with a hint that fits the cause.
pub fn check_ports(http: SocketAddr, https: SocketAddr) -> Result<(), Error> {
    for (address, scheme) in [(http, Scheme::Http), (https, Scheme::Https)] {
        if let Err(source) = bindable(address) {
            let hint = port_hint(address, source.kind());
            return Err(Error::Port {
                address,
                scheme,
                hint,
                source,
            });
        }
    }
    Ok(())
}

fn bindable(address: SocketAddr) -> io::Result<()> {
    // The same options as the proxy's own listeners: a port in TIME_WAIT is not taken.
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

fn port_hint(address: SocketAddr, kind: io::ErrorKind) -> String {
    let port = address.port();
    match kind {
        io::ErrorKind::AddrInUse => format!(
            "port {port} is taken: `ss -ltnp 'sport = :{port}'` names the process; stop it (another demo, perhaps) and start again"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "port {port} needs a privilege: take one above 1023, or run with CAP_NET_BIND_SERVICE"
        ),
        _ => format!("port {port} cannot be bound on this machine: check the address"),
    }
}

// === what is written and printed ===

/// The configuration of the demo: one site, `localhost`, with a self-signed certificate.
///
/// Paths are relative to the working directory, like those of every configuration file.
pub fn demo_config_text(
    http: SocketAddr,
    https: SocketAddr,
    blue: SocketAddr,
    green: SocketAddr,
) -> String {
    format!(
        r#"# Written by `mana-proxy demo` at every start. Change it and type `mana-proxy reload`.
[listen]
http  = ["{http}"]
https = ["{https}"]

[control]
socket = "{SOCKET_PATH}"

[state]
dir = "{STATE_PATH}"

[[site]]
host = "localhost"
initial = "blue"
certificate = "self-signed"
health = {{ path = "/api/ping", expect = 200, interval = "1s", timeout = "2s" }}
blue  = ["{blue}"]
green = ["{green}"]
"#
    )
}

/// What the demo prints when it is ready. `program` is how the shell finds this binary.
pub fn what_to_type(http: SocketAddr, https: SocketAddr, program: &str) -> String {
    let (http, https) = (http.port(), https.port());
    let alias = if program == "mana-proxy" {
        String::new()
    } else {
        format!("    alias mana-proxy='{program}'\n")
    };
    format!(
        "\
The demo is up: https on port {https}, http on port {http}, control socket {SOCKET_PATH}.
In a browser, https://localhost:{https}/ shows a page that turns green when you switch.

Type next, in a second terminal, in this directory:
{alias}    curl -k https://localhost:{https}/
    mana-proxy switch green
    mana-proxy status
Ctrl-C ends the demo.
"
    )
}

/// How a shell finds this binary: by its name if the search path has it, else by its path.
fn program() -> String {
    let Ok(exe) = std::env::current_exe() else {
        return "mana-proxy".to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_found = std::env::split_paths(&path).any(|dir| dir.join("mana-proxy") == exe);
    if is_found {
        return "mana-proxy".to_owned();
    }
    exe.display().to_string()
}

// === what is run ===

/// Writes the configuration, starts the two upstreams on a thread of their own and the proxy before them. Returns when
/// the proxy stops.
///
/// # Errors
/// See [`Error`].
pub fn run() -> Result<(), Error> {
    let http = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT));
    let https = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTPS_PORT));
    check_ports(http, https)?;
    let [blue, green] = start_upstreams()?;
    let text = demo_config_text(http, https, blue, green);
    let file = Path::new(CONFIG_PATH);
    let written = std::fs::create_dir_all(STATE_PATH).and_then(|()| std::fs::write(file, &text));
    written.map_err(Error::Files)?;
    let config = Config::load(file)?;
    run::run(config, file, |_| async move {
        println!("{}", what_to_type(http, https, &program()));
    })?;
    Ok(())
}

/// Starts both upstreams and says where they listen. They end with the process.
fn start_upstreams() -> Result<[SocketAddr; 2], Error> {
    let (told, addresses) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Upstream)?;
    let thread = std::thread::Builder::new().name("demo-upstreams".to_owned());
    let work = move || {
        runtime.block_on(async {
            let bound = DemoUpstreams::bind().await;
            let is_wanted = told.send(
                bound
                    .as_ref()
                    .map(|b| b.addresses)
                    .map_err(ToString::to_string),
            );
            if let (Ok(upstreams), Ok(())) = (bound, is_wanted) {
                upstreams.serve().await;
            }
        });
    };
    thread.spawn(work).map_err(Error::Upstream)?;
    match addresses.recv() {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(reason)) => Err(Error::Upstream(io::Error::other(reason))),
        Err(_) => Err(Error::Upstream(io::Error::other("their thread ended"))),
    }
}

const HTTP_PORT: u16 = 8080;
const HTTPS_PORT: u16 = 8443;

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    #[test]
    fn the_configuration_is_toml_and_names_all_four_addresses() {
        let text = demo_config_text(local(8080), local(8443), local(4000), local(4001));
        let value: toml::Table = text.parse().expect("toml");
        assert_eq!(value["listen"]["https"][0].as_str(), Some("127.0.0.1:8443"));
        assert_eq!(value["site"][0]["host"].as_str(), Some("localhost"));
        assert_eq!(value["site"][0]["blue"][0].as_str(), Some("127.0.0.1:4000"));
        assert_eq!(
            value["site"][0]["green"][0].as_str(),
            Some("127.0.0.1:4001")
        );
        assert_eq!(
            value["control"]["socket"].as_str(),
            Some("run/control.sock")
        );
        assert_eq!(value["state"]["dir"].as_str(), Some("run/state"));
    }

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = taken.local_addr().expect("address");
        let error = check_ports(local(0), address).expect_err("taken");
        let text = error.to_string();
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains("https"), "{text}");
        assert!(
            error.hint().is_some_and(|hint| hint.starts_with("port ")),
            "{error:?}"
        );
        drop(taken);
        check_ports(local(0), address).expect("free again");
    }
}

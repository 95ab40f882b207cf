//! The proxy of one case, and the one upstream that answers for all of its addresses.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::process::Process;
use crate::{Case, Outcome, host};

/// A running proxy.
pub struct Setting {
    /// Where clients ask.
    pub address: SocketAddr,
    // Before the directory, which it writes to: fields are dropped in this order.
    pub process: Process,
    _home: TempDir,
}

// === impl Setting ===

impl Setting {
    /// Starts the upstream and the proxy.
    ///
    /// # Errors
    /// The proxy cannot be started or does not listen; what it said is in the message.
    pub fn start(case: Case) -> Outcome<Setting> {
        let home = tempfile::tempdir()?;
        let probes = Arc::new(AtomicUsize::new(0));
        let port = upstream(Arc::clone(&probes))?;
        let address = free_address()?;
        let file = home.path().join("config");
        fs::write(&file, config(case, address, port)?)?;
        // It may run on every core: with two workers it has to. The bench shares them, so requests per second say
        // little, and CPU per request more.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(mana_proxy_binary())
            .args(["run", "--config"])
            .arg(&file)
            .current_dir(home.path())
            .stdin(Stdio::null());
        let setting = Setting {
            address,
            process: Process::start("mana-proxy", command, address.port(), home.path())?,
            _home: home,
        };
        // Their first probes come all at once, and are not what is measured.
        let entries = case.sites * 2 * case.upstreams;
        let deadline = Instant::now() + PROBES_DEADLINE;
        while probes.load(Ordering::Relaxed) < entries {
            if Instant::now() > deadline {
                let answered = probes.load(Ordering::Relaxed);
                return Err(
                    format!("{answered} of {entries} upstreams were probed in time").into(),
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(setting)
    }
}

/// Each address of the table is another one of 127.0.0.0/8 at the upstream's port. Probes are an hour apart, so that
/// those of ten thousand upstreams do not drown what is measured.
fn config(case: Case, listen: SocketAddr, upstream: u16) -> Outcome<String> {
    let mut text = format!(
        r#"[server]
workers = {}
[listen]
http = ["{listen}"]
[control]
socket = "control.sock"
[state]
dir = "state"
[admin]
listen = "{}"
[access_log]
to = "/dev/null"
[timeouts]
idle = "10m"
[limits]
connections = {}
connections_per_address = 10000
requests_per_address = 0
requests_per_connection = 1000000
"#,
        case.workers,
        free_address()?,
        case.connections + 100
    );
    let mut number = 0_u32;
    let mut slot = || {
        let mut addresses = Vec::new();
        for _ in 0..case.upstreams {
            number += 1;
            let [_, high, middle, low] = number.to_be_bytes();
            addresses.push(format!("\"127.{}.{middle}.{low}:{upstream}\"", high + 1));
        }
        addresses.join(", ")
    };
    for site in 0..case.sites {
        writeln!(
            text,
            r#"[[site]]
host = "{}"
initial = "blue"
certificate = "self-signed"
health = {{ path = "/health", expect = 200, interval = "1h", timeout = "30s" }}
blue = [{}]
green = [{}]"#,
            host(site),
            slot(),
            slot()
        )?;
    }
    Ok(text)
}

/// Starts the upstream on all addresses of this machine, and returns its port. It ends with this process. A task for each
/// connection: ten thousand probes come at once.
fn upstream(probes: Arc<AtomicUsize>) -> Outcome<u16> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = {
        let _inside = runtime.enter();
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        socket.listen(BACKLOG)?
    };
    let port = listener.local_addr()?.port();
    let answer: Arc<str> = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY_BYTES}\r\n\r\n{}",
        "x".repeat(BODY_BYTES)
    )
    .into();
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                // One that broke before it was taken is the proxy's to answer for: its client sees it.
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&answer), Arc::clone(&probes)));
                }
            }
        });
    });
    Ok(port)
}

/// One connection. Requests have no bodies, and the next one comes after the answer.
async fn serve(
    mut stream: TcpStream,
    answer: Arc<str>,
    probes: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        if head.ends_with(b"\r\n\r\n") {
            stream.write_all(answer.as_bytes()).await?;
            if head.starts_with(b"GET /health ") {
                probes.fetch_add(1, Ordering::Relaxed);
            }
            head.clear();
        }
    }
}

/// The binary that is measured: the one that Cargo built for this bench, or the one that `MANA_PROXY_BIN` names.
fn mana_proxy_binary() -> PathBuf {
    std::env::var_os("MANA_PROXY_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_mana-proxy").into(), PathBuf::from)
}

/// One that nobody has. Somebody may take it before it is bound; then the start fails and says so.
fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Of each response.
pub const BODY_BYTES: usize = 1024;
/// Connections that wait to be taken.
const BACKLOG: u32 = 16_384;
const PROBES_DEADLINE: Duration = Duration::from_secs(60);

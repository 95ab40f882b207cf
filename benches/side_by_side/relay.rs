//! The floor: a relay that copies bytes both ways and does not look at them.
//!
//! Owns its start as a child and what the child does. One thread, a connection to the upstream for each of a client,
//! tokio as mana-proxy uses it, and mana-proxy's own TLS settings: its keyring. What a proxy costs above this is HTTP,
//! the log and protection; what it costs below it is saved by sharing connections to the upstream.

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mana_certs::{Bundle, Challenges, Publish};
use mana_proxy::tls::Keyring;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::Outcome;
use crate::bed::{Bed, HOST};
use crate::contender::Scheme;
use crate::process::{Process, pinned_self};

/// The word after which this program is the relay.
pub const ROLE: &str = "relay";

/// Starts it on a core of its own.
pub fn start(name: &str, scheme: Scheme, port: u16, bed: &Bed, core: usize) -> Outcome<Process> {
    let mut command = pinned_self(core)?;
    command.args([ROLE, &port.to_string(), &bed.upstream.to_string()]);
    if scheme == Scheme::Tls {
        command.arg(bed.chain()).arg(bed.key());
    }
    Process::start(name, command, port, bed.path())
}

/// The child: `PORT UPSTREAM_PORT [CHAIN KEY]`. Relays until it is killed.
pub fn play(arguments: &[String]) -> Outcome<()> {
    let (port, upstream, keyring) = match arguments {
        [port, upstream] => (port, upstream, None),
        [port, upstream, chain, key] => {
            let keyring = Keyring::new(Arc::new(Challenges::default()))?;
            let bundle = Bundle::from_files(HOST, Path::new(chain), Path::new(key), &[HOST])?;
            keyring.publish(bundle);
            (port, upstream, Some(keyring))
        }
        _ => return Err("the relay wants PORT UPSTREAM_PORT [CHAIN KEY]".into()),
    };
    let (port, upstream) = (port.parse()?, upstream.parse()?);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(port, upstream, keyring))
}

async fn serve(port: u16, upstream: u16, keyring: Option<Keyring>) -> Outcome<()> {
    let listener = listen(port)?;
    let keyring = keyring.map(Arc::new);
    loop {
        let (client, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
        };
        let keyring = keyring.clone();
        tokio::spawn(async move {
            // A client or an upstream that went away ends its connection and nothing else; if that was a failure, the
            // load generator says so.
            let _ = client.set_nodelay(true);
            let _ = match keyring {
                None => relay(async { Ok(client) }, upstream).await,
                Some(keyring) => relay(keyring.accept(client), upstream).await,
            };
        });
    }
}

/// The default backlog of tokio is a quarter of what the other contenders have.
fn listen(port: u16) -> Outcome<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    Ok(socket.listen(BACKLOG)?)
}

async fn relay<S: AsyncRead + AsyncWrite + Unpin>(
    client: impl Future<Output = std::io::Result<S>>,
    upstream: u16,
) -> std::io::Result<()> {
    let mut client = client.await?;
    let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await?;
    upstream.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}

const BACKLOG: u32 = 4096;
const BACK_OFF: Duration = Duration::from_millis(10);

//! Many connections that have each asked once and then rest, and what one of them costs in memory.
//!
//! Owns the clients, which are one child process, and the order of the measurement.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::Outcome;
use crate::bed::Bed;
use crate::client::{Client, Target};
use crate::contender::{Contender, Server};
use crate::process::pinned_self;

/// The word after which this program is the clients.
pub const ROLE: &str = "hold";

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Of the contender, after a few clients have come and gone.
    pub before_bytes: u64,
    /// With all connections open.
    pub open_bytes: u64,
    pub connections: u32,
}

/// The child that has the connections. They go with this value.
struct Clients {
    child: Child,
    count: u32,
}

// === impl Memory ===

impl Memory {
    /// What one connection adds.
    pub fn bytes_per_connection(&self) -> f64 {
        (self.open_bytes as f64 - self.before_bytes as f64) / f64::from(self.connections)
    }
}

/// Whether a contender may have as many files open as it needs for all connections.
pub fn is_possible(contender: Contender, files: u64) -> bool {
    u64::from(CONNECTIONS) * contender.files_per_client() + FILES_BESIDE <= files
}

/// Opens all connections to a server that was just started and reads how much its memory grew.
///
/// # Errors
/// The server does not take them all in time, or has closed one before it was measured.
pub fn measure(server: &Server, bed: &Bed, core: usize) -> Outcome<Memory> {
    let process = server.process.as_ref().ok_or("no process to look at")?;
    let chain_and_key = bed.chain_and_key();
    // Code and tables that the first clients bring in do not belong to the later ones.
    drop(Clients::open(server.port, &chain_and_key, FIRST, core)?);
    thread::sleep(SETTLE);
    let before_bytes = process.memory_bytes()?;
    let mut clients = Clients::open(server.port, &chain_and_key, CONNECTIONS, core)?;
    thread::sleep(SETTLE);
    let open_bytes = process.memory_bytes()?;
    clients.check()?;
    Ok(Memory {
        before_bytes,
        open_bytes,
        connections: CONNECTIONS,
    })
}

// === impl Clients ===

impl Clients {
    fn open(port: u16, chain_and_key: &Path, count: u32, core: usize) -> Outcome<Clients> {
        let mut command = pinned_self(core)?;
        command
            .args([ROLE, &port.to_string(), &count.to_string()])
            .arg(chain_and_key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let child = command.spawn()?;
        let mut clients = Clients { child, count };
        clients.expect_all("could not be opened")?;
        Ok(clients)
    }

    /// That all connections are still there.
    fn check(&mut self) -> Outcome<()> {
        let stdin = self.child.stdin.as_mut().ok_or("no way to ask")?;
        stdin.write_all(b"\n")?;
        self.expect_all("were closed")
    }

    /// The child says how many there are, and ends by itself if that takes too long.
    fn expect_all(&mut self, otherwise: &str) -> Outcome<()> {
        let stdout = self.child.stdout.as_mut().ok_or("no way to listen")?;
        let mut said = String::new();
        // Nothing is lost with the reader: the child says one line and waits.
        BufReader::new(stdout).read_line(&mut said)?;
        match said.trim().parse::<u32>() {
            Ok(count) if count == self.count => Ok(()),
            _ => Err(format!(
                "of {} connections some {otherwise}: {}",
                self.count,
                said.trim()
            )
            .into()),
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill and wait tells at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child: `PORT COUNT CHAIN_AND_KEY`. Says how many are open, and again for each line that it reads.
pub fn play(arguments: &[String]) -> Outcome<()> {
    let [port, count, chain_and_key] = arguments else {
        return Err("the clients want PORT COUNT CHAIN_AND_KEY".into());
    };
    let target = Target::new(port.parse()?, Some(Path::new(chain_and_key)))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let opening = open_all(&target, count.parse()?);
    let opened = runtime.block_on(async { tokio::time::timeout(OPEN_DEADLINE, opening).await });
    let clients = opened.map_err(|_| "opening took too long")??;
    println!("{}", clients.len());
    for line in std::io::stdin().lines() {
        line?;
        let at_rest = clients.iter().filter(|client| client.is_at_rest()).count();
        println!("{at_rest}");
    }
    Ok(())
}

async fn open_all(target: &Target, count: u32) -> Outcome<Vec<Client>> {
    stream::iter(0..count)
        .map(|number| async move {
            let mut client = target.connect(source(number)).await?;
            client.get().await?;
            Ok(client)
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Spread over some addresses of this machine, so that no machine is short of ports.
fn source(number: u32) -> Ipv4Addr {
    let [.., last] = (number % SOURCES).to_be_bytes();
    Ipv4Addr::new(127, 0, 0, 2 + last)
}

const CONNECTIONS: u32 = 10_000;
const FIRST: u32 = 64;
/// Listeners, logs, connections to the upstream, and what a contender keeps back.
const FILES_BESIDE: u64 = 1000;
/// Handshakes under way; far below any limit of a contender.
const AT_ONCE: usize = 32;
const SOURCES: u32 = 8;
/// For what closing and answering leave to do. Far below the time that contenders let clients rest.
const SETTLE: Duration = Duration::from_secs(2);
/// Below it too: the first ones must still be there when the last ones are.
const OPEN_DEADLINE: Duration = Duration::from_secs(55);

#[cfg(test)]
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_connection_is_what_all_added_and_may_be_less_than_nothing() {
        let memory = |before_bytes, open_bytes| Memory {
            before_bytes,
            open_bytes,
            connections: 10,
        };
        assert_eq!(memory(1000, 3000).bytes_per_connection(), 200.0);
        assert_eq!(memory(3000, 1000).bytes_per_connection(), -200.0);
    }

    #[test]
    fn who_holds_two_files_for_a_client_needs_twice_as_many() {
        assert!(is_possible(Contender::NginxTuned, 20_000));
        assert!(!is_possible(Contender::NginxTuned, 10_000));
        assert!(!is_possible(Contender::Relay, 20_000));
        assert!(is_possible(Contender::Relay, 24_000));
    }

    #[test]
    fn sources_are_of_this_machine_and_take_turns() {
        assert_eq!(source(0), Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(source(7), Ipv4Addr::new(127, 0, 0, 9));
        assert_eq!(source(8), source(0));
    }
}

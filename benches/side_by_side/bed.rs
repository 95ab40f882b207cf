//! What all contenders share: a directory, a certificate, the upstream.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Outcome;
use crate::contender::nginx;
use crate::process::{Cores, Process};

/// The name that clients ask for and the certificate covers.
pub const HOST: &str = "localhost";

/// Everything around a contender. Goes away with this value.
pub struct Bed {
    /// Where the upstream listens.
    pub upstream: u16,
    /// A second address of the same upstream: for the other slot, or as nginx's `backup`.
    pub upstream_other: u16,
    // Before the directory, which it writes to: fields are dropped in this order.
    _process: Process,
    directory: TempDir,
}

// === impl Bed ===

impl Bed {
    /// Makes the files and starts the upstream: one nginx process that serves a small and a large file from memory.
    pub fn new(cores: &Cores) -> Outcome<Bed> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        let files = path.join("files");
        fs::create_dir(&files)?;
        fs::write(files.join("1k"), noise(1024))?;
        fs::write(files.join("1m"), noise(1024 * 1024))?;
        let issued = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        fs::write(path.join(CHAIN), issued.cert.pem())?;
        fs::write(path.join(KEY), issued.signing_key.serialize_pem())?;
        let both = issued.cert.pem() + &issued.signing_key.serialize_pem();
        fs::write(path.join(CHAIN_AND_KEY), both)?;

        let (upstream, upstream_other) = (free_port()?, free_port()?);
        let http = format!(
            "access_log off; sendfile on; tcp_nopush on; open_file_cache max=16;
             keepalive_requests 1000000000; keepalive_time 1d;
             server {{ listen 127.0.0.1:{upstream} backlog=4096; listen 127.0.0.1:{upstream_other}; root {}; }}",
            files.display()
        );
        let process = nginx::start("upstream", &http, upstream, path, cores.around)?;
        Ok(Bed {
            upstream,
            upstream_other,
            _process: process,
            directory,
        })
    }

    /// The directory of the run.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The certificate: ECDSA P-256, self-signed.
    pub fn chain(&self) -> PathBuf {
        self.path().join(CHAIN)
    }

    /// The certificate and its key in one file, as haproxy wants them.
    pub fn chain_and_key(&self) -> PathBuf {
        self.path().join(CHAIN_AND_KEY)
    }

    /// Its key.
    pub fn key(&self) -> PathBuf {
        self.path().join(KEY)
    }
}

/// A port that nobody has. Somebody may take it before it is bound; then the start fails and says so.
pub fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Bytes that do not compress, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

const CHAIN_AND_KEY: &str = "chain-and-key.pem";
const CHAIN: &str = "chain.pem";
const KEY: &str = "key.pem";

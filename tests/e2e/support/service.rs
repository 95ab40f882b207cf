//! A service manager as the binary sees it: sockets that are there before it, and somebody who is told how it stands.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::process::Child;

use super::proxy::{BINARY, within_directory};
use super::{ConfigBuilder, within};

/// Owns the listening sockets, as a socket unit does, and reads what it is told.
pub struct Service {
    directory: TempDir,
    sockets: Vec<TcpListener>,
    told: UnixDatagram,
    environment: Vec<(String, String)>,
}

impl Service {
    /// One socket for http and one for https.
    pub fn new() -> Service {
        let directory = tempfile::tempdir().unwrap();
        let told = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        Service {
            sockets: vec![bind(), bind()],
            told,
            directory,
            environment: Vec::new(),
        }
    }

    /// Sets a variable of the processes that are started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Has the configuration listen on these sockets.
    pub fn configure(&self, config: &mut ConfigBuilder) {
        for (key, socket) in ["http", "https"].iter().zip(&self.sockets) {
            let address = socket.local_addr().unwrap().to_string();
            config.set("listen", key, &format!("[{address:?}]"));
        }
    }

    /// Starts the binary in a directory as a service manager does.
    pub fn start(&self, directory: &Path) -> Child {
        // A shell moves the descriptors to where they belong; between fork and exec no code of ours may run.
        let script = r#"
            exec 3<&0 4<&1 </dev/null >>stdout.log
            export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http:https
            exec "$0" run --config mana-proxy.toml"#;
        let socket = |index: usize| OwnedFd::from(self.sockets[index].try_clone().unwrap());
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("stderr.log"));
        within_directory("sh", directory)
            .args(["-c", script, BINARY])
            .env("NOTIFY_SOCKET", self.directory.path().join("notify"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(socket(0)))
            .stdout(Stdio::from(socket(1)))
            .stderr(Stdio::from(log.unwrap()))
            .spawn()
            .unwrap()
    }

    /// The next thing that the service manager is told.
    pub async fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let length = within("something is told", self.told.recv(&mut bytes)).await;
        String::from_utf8(bytes[..length.unwrap()].to_vec()).unwrap()
    }

    /// What it is told from now on, until something in it is as wanted. That is the last one.
    pub async fn told_until(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let told = self.told().await;
            let is_wanted = wanted(&told);
            all.push(told);
            if is_wanted {
                return all;
            }
        }
    }

    /// What it was told and has not read yet.
    pub fn told_meanwhile(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut bytes = [0; 4096];
        while let Ok(length) = self.told.try_recv(&mut bytes) {
            all.push(String::from_utf8(bytes[..length].to_vec()).unwrap());
        }
        all
    }
}

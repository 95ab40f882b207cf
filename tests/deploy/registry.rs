//! A registry of images that asks for a name and a token, as the one of production does.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use crate::apart;
use crate::engine::Engine;
use crate::release::Release;
use crate::support::eventually;

/// Who may pull, and push.
pub const USER: &str = "puller";
/// Nothing else in a test looks like it, so that it is found wherever it leaks to.
pub const TOKEN: &str = "t0ken-of-the-registry-Zq83vLw";
/// [`USER`] and [`TOKEN`], as `htpasswd -B` writes them.
const PASSWORDS: &str = "puller:$2y$04$AhO8EMJ.xBsplQR6iimz1ui1KN8sjecCwZrB.F3YWnamRy1k5.sJG\n";
/// The network is the test's own, so that every port is free. An engine takes a registry on loopback without TLS.
const ADDRESS: &str = "127.0.0.1:5000";

/// A running registry.
pub struct Registry {
    process: Child,
}

// === impl Registry ===

impl Registry {
    /// Starts one with nothing in it, and waits until it listens.
    pub async fn start() -> Registry {
        let directory = apart::directory().join("registry");
        fs::create_dir_all(&directory).unwrap();
        let passwords = directory.join("passwords");
        fs::write(&passwords, PASSWORDS).unwrap();
        let config = directory.join("config.yml");
        let text = format!(
            "version: 0.1\n\
             log: {{ level: warn }}\n\
             storage: {{ filesystem: {{ rootdirectory: {directory:?} }} }}\n\
             http: {{ addr: {ADDRESS:?} }}\n\
             auth: {{ htpasswd: {{ realm: test, path: {passwords:?} }} }}\n"
        );
        fs::write(&config, text).unwrap();
        let log = File::create(directory.join("log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry: apt-get install docker-registry");
        eventually("the registry listens", async || {
            tokio::net::TcpStream::connect(ADDRESS).await.is_ok()
        })
        .await;
        Registry { process }
    }

    /// The repository of the app, without a tag.
    pub fn repository(&self) -> String {
        format!("{ADDRESS}/mana-client")
    }

    /// Makes a release at an engine, brings it here, and takes it away from the engine. Its image's id.
    pub fn push(&self, engine: &Engine, release: &Release<'_>) -> String {
        self.push_for_digest(engine, release).0
    }

    /// The same; the digest that it has here as well.
    pub fn push_for_digest(&self, engine: &Engine, release: &Release<'_>) -> (String, String) {
        let repository = self.repository();
        let reference = format!("{repository}:{}", release.tag());
        // A tag that moves: what is here of an earlier push keeps its name.
        let earlier = engine.image(&reference);
        let id = release.import(engine, &repository);
        engine.docker(&["login", "--username", USER, "--password", TOKEN, ADDRESS]);
        engine.docker(&["push", "--quiet", &reference]);
        engine.docker(&["logout", ADDRESS]);
        let format = "--format={{join .RepoDigests \" \"}}";
        let digests = engine.docker(&["image", "inspect", format, &id]);
        let digest = digests.split('@').nth(1).unwrap().to_owned();
        engine.docker(&["image", "rm", &reference]);
        if let Some(earlier) = earlier {
            engine.docker(&["tag", &earlier, &reference]);
        }
        (id, digest)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

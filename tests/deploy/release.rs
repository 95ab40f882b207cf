//! Releases to deploy: images made of `app.rs`, as good or bad as a test wants them.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::engine::{Engine, done};

const SOURCE: &str = include_str!("app.rs");

/// What an image is made with. The name is what its pages say, and its tag.
pub struct Release<'a> {
    tag: &'a str,
    environment: Vec<(&'a str, String)>,
    command: &'a str,
    ballast_mib: u64,
}

// === impl Release ===

impl<'a> Release<'a> {
    /// One without a fault.
    pub fn good(name: &'a str) -> Release<'a> {
        Release {
            tag: name,
            environment: vec![("RELEASE", name.to_owned())],
            command: "/app",
            ballast_mib: 0,
        }
    }

    /// It says why, and ends before it listens.
    pub fn crashing(name: &'a str, code: u8) -> Release<'a> {
        Release::good(name).with("CRASH", u64::from(code))
    }

    /// It runs, and answers probes with a status that is no health.
    pub fn unhealthy(name: &'a str, status: u16) -> Release<'a> {
        Release::good(name).with("PING", u64::from(status))
    }

    /// It starts, and listens once [`Scene::let_listen`](crate::scene::Scene::let_listen) says so.
    pub fn slow(name: &'a str) -> Release<'a> {
        let mut release = Release::good(name);
        let file = format!("/posts/listen-{name}");
        release.environment.push(("LISTEN_WHEN", file));
        release
    }

    /// Its pages have this status.
    pub fn paging(name: &'a str, status: u16) -> Release<'a> {
        Release::good(name).with("PAGE", u64::from(status))
    }

    /// From the so manieth forwarded request on it answers 500.
    pub fn failing_after(name: &'a str, requests: u64) -> Release<'a> {
        Release::good(name).with("FAILS_AFTER", requests)
    }

    /// With the so manieth forwarded request it ends.
    pub fn dying_after(name: &'a str, requests: u64) -> Release<'a> {
        Release::good(name).with("DIES_AFTER", requests)
    }

    /// An image whose program is not in it.
    pub fn without_program(name: &'a str) -> Release<'a> {
        Release {
            command: "/not-in-the-image",
            ..Release::good(name)
        }
    }

    fn with(mut self, name: &'a str, value: u64) -> Release<'a> {
        self.environment.push((name, value.to_string()));
        self
    }

    /// The same under another tag than its name.
    pub fn tagged(mut self, tag: &'a str) -> Release<'a> {
        self.tag = tag;
        self
    }

    /// The same, and that many mebibytes larger, which no other image has.
    pub fn heavy(mut self, mebibytes: u64) -> Release<'a> {
        self.ballast_mib = mebibytes;
        self
    }

    /// The tag.
    pub fn tag(&self) -> &'a str {
        self.tag
    }

    /// Makes the image `REPOSITORY:TAG` at an engine; its id.
    pub fn import(&self, engine: &Engine, repository: &str) -> String {
        let app = app();
        let ballast = tempfile::tempdir().unwrap();
        let file = File::create(ballast.path().join("ballast")).unwrap();
        file.set_len(self.ballast_mib * 1024 * 1024).unwrap();
        let mut tar = Command::new("tar")
            .arg("--create")
            .arg("--directory")
            .arg(app.parent().unwrap())
            .arg(app.file_name().unwrap())
            .arg("--directory")
            .arg(ballast.path())
            .arg("ballast")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut import = engine.command("docker");
        import.args(["import", "--change", &format!("CMD [{:?}]", self.command)]);
        for (name, value) in &self.environment {
            import.args(["--change", &format!("ENV {name}={value}")]);
        }
        let reference = format!("{repository}:{}", self.tag);
        let imported = done(
            import
                .args(["-", &reference])
                .stdin(tar.stdout.take().unwrap()),
        );
        assert!(tar.wait().unwrap().success());
        imported
    }
}

/// The app as a program that needs nothing else. Compiled by the first test that wants it, and kept.
fn app() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    SOURCE.hash(&mut hasher);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy");
    let directory = target.join(format!("app-{:016x}", hasher.finish()));
    fs::create_dir_all(&directory).unwrap();
    // Tests are processes of their own: whoever comes second must wait, for a program that is replaced while another
    // test packs it is "changed as we read it".
    let one_at_a_time = File::create(directory.join("lock")).unwrap();
    one_at_a_time.lock().unwrap();
    let app = directory.join("app");
    if app.exists() {
        return app;
    }
    // Made beside it and renamed, so that one that was cut off is not taken for whole.
    let making = tempfile::tempdir_in(&target).unwrap();
    let (source, made) = (making.path().join("app.rs"), making.path().join("app"));
    fs::write(&source, SOURCE).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    done(
        Command::new(rustc)
            .args(["--edition=2024", "-O", "-Ctarget-feature=+crt-static"])
            .arg("-o")
            .args([&made, &source]),
    );
    fs::rename(&made, &app).unwrap();
    app
}

//! `certs list`, `renew`, `import` and `check`, as an operator sees them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Output;

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

use crate::ca::Knobs;
use crate::scene::{Backstage, Scene, stderr};
use crate::support::{HOST, Stage};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Lays out what the store holds as Certbot would: `live/mana.so`, with links into `archive`.
fn as_certbot(bundle: &Path, into: &Path) {
    let text = std::fs::read_to_string(bundle).unwrap();
    let chain = text.find("-----BEGIN CERTIFICATE").unwrap();
    let (archive, live) = (into.join("archive/mana.so"), into.join("live/mana.so"));
    std::fs::create_dir_all(&archive).unwrap();
    std::fs::create_dir_all(&live).unwrap();
    for (name, text) in [("privkey", &text[..chain]), ("fullchain", &text[chain..])] {
        std::fs::write(archive.join(format!("{name}7.pem")), text).unwrap();
        let target = format!("../../archive/mana.so/{name}7.pem");
        std::os::unix::fs::symlink(target, live.join(format!("{name}.pem"))).unwrap();
    }
}

#[tokio::test]
async fn list_says_what_is_served_and_what_comes_next() {
    let scene = Scene::issued().await;
    let output = scene.proxy.cli(&["certs", "list"]).await;
    assert!(output.status.success(), "{output:?}");
    let said = stdout(&output);
    for part in [
        "mana.so",
        "days",
        "acme",
        "Pebble Intermediate CA",
        "next 20",
        "www.mana.so",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let output = scene.proxy.cli(&["certs", "list", "--json"]).await;
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let certificate = &json["certificates"][0];
    assert_eq!(certificate["site"], HOST);
    assert_eq!(certificate["names"].as_array().unwrap().len(), 2);
    assert!(certificate["days_left"].as_i64().unwrap() > 0);
    assert!(certificate["next_attempt"].is_string() && certificate["why"].is_string());
    let output = scene.proxy.cli(&["certs", "list", "--site", "b.so"]).await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}

#[tokio::test]
async fn what_is_not_of_a_ca_is_listed_and_not_renewed() {
    let stage = Stage::start().await;
    let output = stage.proxy.cli(&["certs", "list"]).await;
    assert!(stdout(&output).contains("self-signed"), "{output:?}");
    let output = stage.proxy.cli(&["certs", "renew", "--force"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("there is nothing to renew"),
        "{output:?}"
    );
}

#[tokio::test]
async fn a_certificate_of_certbot_is_taken_over_without_an_order() {
    let first = Scene::issued().await;
    let certbot = tempfile::tempdir().unwrap();
    as_certbot(
        &first
            .proxy
            .path()
            .join("run/state/certs/mana.so/bundle.pem"),
        certbot.path(),
    );
    let leaf = first.leaf().await;
    let live = certbot.path().join("live/mana.so");
    let live = live.to_str().unwrap();

    let backstage = Backstage::prepare(Knobs::default()).await;
    let home = backstage.home();
    let import = |extra: &'static str| {
        [
            "certs",
            "import",
            live,
            "--config",
            "mana-proxy.toml",
            extra,
        ]
    };
    let output = home.run(&import("--json")).await;
    assert!(output.status.success(), "{output:?}");
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&json["ok"], &json["site"]),
        (&Value::Bool(true), &HOST.into())
    );
    let output = home.run(&import("--site=b.so")).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    let scene = Scene {
        proxy: home.start(&[]).await,
        double: backstage.double,
        pebble: backstage.pebble,
        blue: backstage.blue,
        green: backstage.green,
    };
    scene.wait_until_issued().await;
    assert_eq!(scene.leaf().await, leaf);
    assert_eq!(scene.orders(), 0);
    assert!(
        scene.trusting(HOST).await.is_err(),
        "it is of the other pebble"
    );
}

/// Root reads the pair, and writes with the rights of the owner of the state directory: what that user has put there leads
/// nowhere that it could not go alone.
#[tokio::test]
async fn an_import_by_root_follows_no_link_of_the_daemon_s_user() {
    const NOBODY: u32 = 65534;
    let backstage = Backstage::prepare(Knobs::default()).await;
    let home = backstage.home();
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        eprintln!("not root: there are no rights to lay down");
        return;
    }
    let certbot = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec![HOST.to_owned(), "www.mana.so".to_owned()];
    let chain = CertificateParams::new(names).unwrap();
    let chain = chain.self_signed(&key).unwrap().pem();
    std::fs::write(certbot.path().join("fullchain.pem"), chain).unwrap();
    std::fs::write(certbot.path().join("privkey.pem"), key.serialize_pem()).unwrap();
    let live = certbot.path().to_str().unwrap();
    let import = ["certs", "import", live, "--config", "mana-proxy.toml"];

    // What the daemon's user has laid out: links to what is root's alone.
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(home.path(), open.clone()).unwrap();
    let state = home.path().join("run/state");
    let site = state.join("certs/mana.so");
    std::fs::create_dir_all(&site).unwrap();
    std::fs::set_permissions(home.path().join("run"), open).unwrap();
    let of_root = home.path().join("of-root");
    std::fs::create_dir(&of_root).unwrap();
    std::fs::write(of_root.join("file"), "untouched").unwrap();
    for (name, target) in [("bundle.pem.tmp", "file"), ("ledger.json", "file")] {
        std::os::unix::fs::symlink(of_root.join(target), site.join(name)).unwrap();
    }
    for path in [&state, &state.join("certs"), &site] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let output = home.run(&import).await;
    assert!(output.status.success(), "{output:?}");
    let stored = std::fs::symlink_metadata(site.join("bundle.pem")).unwrap();
    assert!(stored.is_file());
    assert_eq!((stored.uid(), stored.mode() & 0o777), (NOBODY, 0o600));
    let untouched = || {
        let metadata = std::fs::metadata(of_root.join("file")).unwrap();
        assert_eq!(metadata.uid(), 0);
        let text = std::fs::read_to_string(of_root.join("file")).unwrap();
        assert_eq!(text, "untouched");
        assert_eq!(std::fs::read_dir(&of_root).unwrap().count(), 1);
    };
    untouched();

    // The whole directory.
    std::fs::remove_dir_all(&site).unwrap();
    std::os::unix::fs::symlink(&of_root, &site).unwrap();
    let output = home.run(&import).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("mana.so is a link"), "{output:?}");
    untouched();
}

#[tokio::test]
async fn what_is_imported_into_a_daemon_that_runs_is_taken_by_a_reload() {
    let scene = Scene::issued().await;
    let bundle = scene
        .proxy
        .path()
        .join("run/state/certs/mana.so/bundle.pem");
    let certbot = tempfile::tempdir().unwrap();
    as_certbot(&bundle, certbot.path());
    let before = scene.leaf().await;
    scene.renew_now().await;
    assert_ne!(scene.leaf().await, before);
    let live = certbot.path().join("live/mana.so");
    let arguments = [
        "certs",
        "import",
        live.to_str().unwrap(),
        "--config",
        "mana-proxy.toml",
    ];
    let output = scene.proxy.cli(&arguments).await;
    assert!(output.status.success(), "{output:?}");
    scene.proxy.done("reload").await;
    crate::support::eventually("the imported one", async || scene.leaf().await == before).await;
    assert_eq!(scene.orders(), 2);
}

#[tokio::test]
async fn a_pair_that_does_not_match_is_not_taken_over() {
    let first = Scene::issued().await;
    let certbot = tempfile::tempdir().unwrap();
    let bundle = first
        .proxy
        .path()
        .join("run/state/certs/mana.so/bundle.pem");
    as_certbot(&bundle, certbot.path());
    let old = std::fs::read(certbot.path().join("archive/mana.so/privkey7.pem")).unwrap();
    first.renew_now().await;
    let newer = tempfile::tempdir().unwrap();
    as_certbot(&bundle, newer.path());
    std::fs::write(newer.path().join("archive/mana.so/privkey7.pem"), old).unwrap();
    let before = std::fs::read(&bundle).unwrap();
    let live = newer.path().join("live/mana.so");
    let arguments = [
        "certs",
        "import",
        live.to_str().unwrap(),
        "--config",
        "mana-proxy.toml",
    ];
    let output = first.proxy.cli(&arguments).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("the key does not belong"),
        "{output:?}"
    );
    assert_eq!(std::fs::read(&bundle).unwrap(), before);
}

#[tokio::test]
async fn check_shows_what_a_client_sees() {
    let scene = Scene::issued().await;
    let via = scene.proxy.https().to_string();
    let root = scene.pebble.root().await;
    std::fs::write(scene.proxy.path().join("root.pem"), root).unwrap();
    let check = async |host: &str, more: &[&str]| {
        let arguments = [&["certs", "check", host, "--via", &via], more].concat();
        scene.proxy.cli(&arguments).await
    };
    let output = check(HOST, &["--ca-root", "root.pem"]).await;
    assert!(output.status.success(), "{output:?}");
    let said = stdout(&output);
    for part in [
        "Pebble Intermediate CA",
        "www.mana.so",
        "days left",
        "TLSv1_3 h2",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // The system does not know that root, and the name is another's.
    let output = check(HOST, &["--json"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(json["distrust"].is_string(), "{json}");
    let output = check("elsewhere.example", &["--ca-root", "root.pem"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains("a client would not trust it"),
        "{output:?}"
    );
}

#[tokio::test]
async fn doctor_sees_the_certificate_and_who_answers_challenges() {
    let scene = Scene::issued().await;
    let challenges = format!("challenges at http://{HOST}/");
    let config = scene.proxy.path().join("mana-proxy.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    // The proxy itself, an upstream that passes for another web server, and nobody.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody_there = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    for (via, level, what) in [
        (
            scene.proxy.http().to_string(),
            "green",
            "a CA reaches the proxy",
        ),
        (scene.blue.address(), "red", "something else answers"),
        (nobody_there, "red", "nobody answers"),
    ] {
        let line = format!("[acme]\npreflight_via = {via:?}\n");
        std::fs::write(&config, good.replace("[acme]\n", &line)).unwrap();
        let arguments = ["doctor", "--json", "--config", "mana-proxy.toml"];
        let output = scene.proxy.cli(&arguments).await;
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let found = |about: &str| {
            let findings = report["findings"].as_array().unwrap();
            let found = findings.iter().find(|finding| finding["about"] == about);
            found.unwrap_or_else(|| panic!("{about}: {report:#}"))
        };
        let answer = found(&challenges);
        assert_eq!(answer["level"], level, "{via}: {answer}");
        assert!(
            answer["what"].as_str().unwrap().contains(what),
            "{via}: {answer}"
        );
        assert_eq!(found(&format!("certificate of {HOST}"))["level"], "green");
    }
}

//! The first certificate: how it comes, and what is served before it.

use std::os::unix::fs::MetadataExt;

use crate::ca::Knobs;
use crate::double::{Fault, Part};
use crate::scene::{Backstage, Scene};
use crate::support::client::tls::{Offer, connect};
use crate::support::{ALIAS, H1, HOST, eventually};

#[tokio::test]
async fn the_first_certificate_is_served_on_the_next_handshake_without_a_restart() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    backstage.double.hold(Part::Order);
    let scene = backstage.start().await;
    // Until then: redirects, a certificate that nobody trusts, and the site behind it.
    let mut plain = H1::plain(scene.proxy.http()).await;
    assert_eq!(plain.get("/").await.status, 301);
    assert!(scene.trusting(HOST).await.is_err());
    let before = connect(scene.proxy.https(), &Offer::h1(HOST))
        .await
        .unwrap();
    let mut open = H1::over(before);
    scene.proxy.wait_for_health("blue", true).await;
    assert_eq!(open.get("/").await.text(), "blue");

    scene.double.release();
    scene.wait_until_issued().await;
    for name in [HOST, ALIAS] {
        scene.trusting(name).await.unwrap();
    }
    assert_eq!(open.get("/").await.text(), "blue", "it is untouched");
    assert_eq!(plain.get("/").await.status, 301);
    let orders = scene.double.orders();
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].names, [HOST, ALIAS]);
    assert_eq!(orders[0].replaces, None);

    let metrics = scene.proxy.metrics().await;
    for line in [
        r#"mana_proxy_certificate_attempts_total{result="issued",site="mana.so"} 1"#,
        r#"mana_proxy_certificate_next_attempt_timestamp_seconds{site="mana.so"} "#,
        r#"mana_proxy_certificate_expiry_timestamp_seconds{site="mana.so"} "#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    scene.assert_nothing_is_left().await;
    assert!(!scene.proxy.stderr().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn the_store_is_readable_by_its_owner_alone() {
    let scene = Scene::issued().await;
    let certs = scene.proxy.path().join("run/state/certs");
    for (name, mode) in [
        ("", 0o700),
        ("accounts", 0o700),
        ("mana.so", 0o700),
        ("mana.so/bundle.pem", 0o600),
        ("mana.so/ledger.json", 0o600),
    ] {
        let found = std::fs::metadata(certs.join(name)).unwrap().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    let account = std::fs::read_dir(certs.join("accounts")).unwrap().next();
    let account = account.unwrap().unwrap();
    assert_eq!(account.metadata().unwrap().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_hundred_restarts_make_no_order() {
    let mut scene = Scene::issued().await;
    let leaf = scene.leaf().await;
    let asked = scene.double.asked_about().len();
    for _ in 0..100 {
        scene.proxy.sigkill().await;
        scene.proxy.restart(&[]).await;
    }
    scene.wait_until_issued().await;
    assert_eq!(scene.leaf().await, leaf);
    assert_eq!(scene.orders(), 1);
    // Nor is the CA asked for advice before its time.
    assert!(scene.double.asked_about().len() <= asked.max(1));
}

#[tokio::test]
async fn without_a_certificate_https_may_answer_with_an_alert() {
    let mut backstage = Backstage::prepare(Knobs::default()).await;
    backstage.config.set("acme", "first", r#""alert""#);
    backstage.double.hold(Part::Order);
    let scene = backstage.start().await;
    let offer = Offer::h1(HOST);
    assert!(connect(scene.proxy.https(), &offer).await.is_err());
    let mut plain = H1::plain(scene.proxy.http()).await;
    assert_eq!(plain.get("/").await.status, 301);
    scene.double.release();
    scene.wait_until_issued().await;
    scene.trusting(HOST).await.unwrap();
}

#[tokio::test]
async fn challenges_are_answered_everywhere_for_any_host_and_only_while_on_offer() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    backstage.double.hold(Part::Challenge);
    let scene = backstage.start().await;
    eventually("a challenge", async || {
        scene.double.count(Part::Challenge) > 0
    })
    .await;
    let token = scene.double.tokens()[0].clone();
    let ask = async |is_tls: bool, host: &str, path: &str| {
        let mut client = match is_tls {
            true => H1::over(
                connect(scene.proxy.https(), &Offer::h1(HOST))
                    .await
                    .unwrap(),
            ),
            false => H1::plain(scene.proxy.http()).await,
        };
        let path = format!("/.well-known/acme-challenge/{path}");
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        client.send(head).await;
        client.response("GET").await
    };
    for is_tls in [false, true] {
        for host in [
            HOST,
            ALIAS,
            "WWW.Mana.SO.",
            "elsewhere.example",
            "127.0.0.1:1",
        ] {
            let answer = ask(is_tls, host, &token).await;
            assert_eq!(answer.status, 200, "{host}");
            assert!(answer.text().starts_with(&format!("{token}.")), "{host}");
        }
        let long = "a".repeat(10_000);
        for path in ["", "unknown", "../x", "a/b", &long, &format!("{token}?x=1")] {
            assert_eq!(ask(is_tls, HOST, path).await.status, 404, "{path}");
        }
    }
    scene.double.release();
    scene.wait_until_issued().await;
    for is_tls in [false, true] {
        assert_eq!(ask(is_tls, HOST, &token).await.status, 404);
    }
    assert_eq!(scene.blue.requests() + scene.green.requests(), 0);
    scene.assert_nothing_is_left().await;
}

#[tokio::test]
async fn two_sites_get_their_certificates_at_the_same_time() {
    use crate::support::config::SiteBuilder;

    let mut backstage = Backstage::prepare(Knobs::default()).await;
    let second = crate::support::Upstream::start("second").await;
    let third = crate::support::Upstream::start("third").await;
    let mut site = SiteBuilder::new("b.so", &[&second.address()], &[&third.address()]);
    site.set("certificate", r#""acme""#);
    backstage.config.add_site(site);
    backstage.double.hold(Part::Finalize);
    let scene = backstage.start().await;
    // Both are under way before either is done.
    eventually("both orders", async || {
        scene.double.count(Part::Finalize) >= 2
    })
    .await;
    scene.double.release();
    eventually("both certificates", async || {
        let list = scene.proxy.done("certs list").await;
        let all = list["certificates"].as_array().unwrap();
        all.len() == 2 && all.iter().all(|one| one["has_certificate"] == true)
    })
    .await;
    scene.trusting(HOST).await.unwrap();
    scene.trusting("b.so").await.unwrap();
    assert_ne!(scene.leaf_of("b.so").await, scene.leaf().await);
    assert_eq!(scene.orders(), 2);
    scene.assert_nothing_is_left().await;
}

/// Every line of every key that lies in the store.
fn secrets(certs: &std::path::Path) -> Vec<String> {
    let bundle = std::fs::read_to_string(certs.join("mana.so/bundle.pem")).unwrap();
    let (key, _) = bundle.split_once("-----END").unwrap();
    let mut secrets: Vec<String> = key.lines().skip(1).map(str::to_owned).collect();
    for account in std::fs::read_dir(certs.join("accounts")).unwrap() {
        let text = std::fs::read_to_string(account.unwrap().path()).unwrap();
        let account: serde_json::Value = serde_json::from_str(&text).unwrap();
        let key = account["key_pkcs8"].as_str().unwrap();
        // What comes first is the same in all keys.
        secrets.push(key[key.len() - 60..].to_owned());
    }
    secrets.retain(|secret| secret.len() > 20);
    secrets
}

#[tokio::test]
async fn no_key_is_logged_at_any_level() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    let scene = backstage.start_with(&[("MANA_PROXY_LOG", "trace")]).await;
    scene.wait_until_issued().await;
    let certs = scene.proxy.path().join("run/state/certs");
    let mut all = secrets(&certs);
    scene.double.refuse(
        Part::Finalize,
        &[Fault {
            status: 500,
            kind: "serverInternal",
            retry_after_s: None,
        }],
    );
    let output = scene.renew(&["--force"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let order = std::fs::read_to_string(certs.join("mana.so/order.json")).unwrap();
    let order: serde_json::Value = serde_json::from_str(&order).unwrap();
    all.extend(order["key"].as_str().unwrap().lines().map(str::to_owned));
    scene.renew_now().await;
    all.extend(secrets(&certs));
    all.retain(|secret| !secret.starts_with("-----"));
    assert!(all.len() >= 6, "{}", all.len());
    let log = scene.proxy.stderr();
    assert!(log.contains("ordering a certificate") && log.contains("serverInternal"));
    for secret in all {
        assert!(!log.contains(&secret), "a key is in the log");
    }
}

//! Renewals: by force, by the CA's advice, by lifetime. What is open stays open.

use rcgen::{CertificateParams, KeyPair};

use crate::ca::Knobs;
use crate::double::{Fault, Issue, Part};
use crate::scene::{Backstage, Scene, stderr};
use crate::support::client::tls::{Offer, connect};
use crate::support::{H1, HOST, eventually};

const DAY: i64 = 24 * 3600;

#[tokio::test]
async fn a_forced_renewal_is_served_on_the_next_handshake_and_open_connections_stay() {
    let scene = Scene::issued().await;
    let before = scene.leaf().await;
    let mut open = H1::over(
        connect(scene.proxy.https(), &Offer::h1(HOST))
            .await
            .unwrap(),
    );
    scene.proxy.wait_for_health("blue", true).await;
    assert_eq!(open.get("/").await.text(), "blue");
    let output = scene.renew(&["--force"]).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("mana.so: issued, valid until "), "{said}");
    assert_ne!(scene.leaf().await, before);
    scene.trusting(HOST).await.unwrap();
    assert_eq!(open.get("/").await.text(), "blue");
    let orders = scene.double.orders();
    assert_eq!(orders.len(), 2);
    assert!(
        orders[1].replaces.is_some(),
        "the CA is told what it replaces"
    );
    scene.assert_nothing_is_left().await;
}

#[tokio::test]
async fn a_window_in_the_past_renews_once_and_its_stale_advice_never_again() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    // The first certificate is to be renewed at once; the window of the second is a month away.
    backstage
        .double
        .suggest(&[(-7200, -3600), (30 * DAY, 31 * DAY)]);
    let scene = backstage.start().await;
    eventually("the renewal", async || scene.orders() == 2).await;
    eventually("advice on the second one", async || {
        let mut asked = scene.double.asked_about();
        asked.dedup();
        asked.len() == 2
    })
    .await;
    scene.wait_until_issued().await;
    let asked = scene.double.asked_about();
    assert_eq!(
        scene.double.orders()[1].replaces.as_deref(),
        Some(&*asked[0])
    );
    // Whatever the CA goes on to say of the first one, and over a restart.
    let mut scene = scene;
    scene.proxy.sigkill().await;
    scene.proxy.restart(&[]).await;
    scene.wait_until_issued().await;
    let output = scene.renew(&[]).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("not due before"), "{said}");
    assert!(said.contains("the CA suggests it"), "{said}");
    assert_eq!(scene.orders(), 2);
}

#[tokio::test]
async fn advice_that_changes_is_followed_at_the_next_look() {
    let scene = Scene::issued().await;
    eventually("advice", async || !scene.double.asked_about().is_empty()).await;
    // Obeyed: the double asks for an hour between two looks.
    assert_eq!(scene.double.asked_about().len(), 1);
    // The CA has to revoke: what it said before holds no more.
    scene.double.suggest_for_all((-7200, -3600));
    let output = scene.renew(&[]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scene.orders(), 2);
}

#[tokio::test]
async fn a_ca_that_gives_no_advice_is_gone_round_by_the_lifetime() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    let fault = Fault {
        status: 503,
        kind: "serverInternal",
        retry_after_s: None,
    };
    backstage.double.refuse(Part::Advice, &[fault; 20]);
    // Its third is over.
    backstage.double.issue(&[
        Issue::dated(-62 * DAY, 28 * DAY),
        Issue::dated(-60, 90 * DAY),
    ]);
    let scene = backstage.start().await;
    eventually("the renewal", async || scene.orders() == 2).await;
    scene.wait_until_issued().await;
    assert_eq!(scene.certificate().await["why"], "its lifetime");
    assert_eq!(scene.orders(), 2);
}

#[tokio::test]
async fn a_certificate_of_seconds_is_renewed_at_half_of_its_life() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    let fault = Fault {
        status: 404,
        kind: "malformed",
        retry_after_s: None,
    };
    backstage.double.refuse(Part::Advice, &[fault; 20]);
    backstage
        .double
        .issue(&[Issue::dated(-2, 8), Issue::dated(-3 * DAY - 60, 3 * DAY)]);
    // The third is pebble's own.
    let scene = backstage.start().await;
    scene.wait_until_issued().await;
    let first = scene.leaf().await;
    eventually("the second, and the third at its half", async || {
        scene.orders() == 3
    })
    .await;
    scene.wait_until_issued().await;
    assert_ne!(scene.leaf().await, first);
    scene.trusting(HOST).await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_added_is_ordered_at_the_next_reload() {
    let mut kept = None;
    let scene = Scene::issued_with(|backstage| kept = Some(backstage.config.clone())).await;
    let mut config = kept.unwrap();
    config
        .site()
        .set("aliases", r#"["www.mana.so", "new.mana.so"]"#);
    scene.proxy.write_config(&config.text());
    scene.proxy.done("reload").await;
    eventually("the new name", async || {
        scene.trusting("new.mana.so").await.is_ok()
    })
    .await;
    scene.trusting(HOST).await.unwrap();
    assert_eq!(scene.orders(), 2);
    // A reload that changes nothing orders nothing, and does not go back to an older certificate.
    let leaf = scene.leaf().await;
    for _ in 0..5 {
        scene.proxy.done("reload").await;
    }
    scene.wait_until_issued().await;
    assert_eq!((scene.leaf().await, scene.orders()), (leaf, 2));
}

#[tokio::test]
async fn what_is_stored_is_looked_at_again_at_a_start_and_a_reload() {
    let mut scene = Scene::issued().await;
    let path = scene
        .proxy
        .path()
        .join("run/state/certs/mana.so/bundle.pem");
    let key = KeyPair::generate().unwrap();
    let pem = |names: &[&str], until: i32| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let chain = params.self_signed(&key).unwrap().pem();
        format!("{}{chain}", key.serialize_pem())
    };
    let both = [HOST, "www.mana.so"];
    let mut orders = 1;
    for stored in [
        pem(&["elsewhere.example"], 2090),
        pem(&both, 2020),
        "garbage".to_owned(),
    ] {
        scene.proxy.sigkill().await;
        std::fs::write(&path, stored).unwrap();
        scene.proxy.restart(&[]).await;
        orders += 1;
        eventually("another one", async || scene.orders() == orders).await;
        scene.wait_until_issued().await;
        scene.trusting(HOST).await.unwrap();
    }
    std::fs::write(&path, pem(&["elsewhere.example"], 2090)).unwrap();
    scene.proxy.done("reload").await;
    eventually("another one", async || scene.orders() == orders + 1).await;
    scene.wait_until_issued().await;
    scene.trusting(HOST).await.unwrap();
}

#[tokio::test]
async fn the_budget_holds_whoever_asks_and_says_until_when() {
    let scene = Scene::issued_with(|backstage| {
        backstage.config.set("acme", "orders_per_week", "2");
    })
    .await;
    scene.renew_now().await;
    let output = scene.renew(&["--force"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("2 certificates were ordered within a week"),
        "{said}"
    );
    assert!(said.contains("the next one may be ordered at 20"), "{said}");
    assert_eq!(scene.orders(), 2);
}

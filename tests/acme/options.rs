//! What can be configured of a CA: binding, profile, kind of key, fallback, preflight.

use crate::ca::{Identity, Knobs};
use crate::double::{Double, Fault, Part};
use crate::scene::{Backstage, Scene};
use crate::support::{HOST, eventually};

const KID: &str = "kid-1";
const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

async fn with_binding(eab: Option<&str>) -> Scene {
    let knobs = Knobs {
        eab: Some((KID, KEY)),
        ..Knobs::default()
    };
    let mut backstage = Backstage::prepare(knobs).await;
    if let Some(eab) = eab {
        backstage.config.set("acme", "eab", eab);
    }
    let home = backstage.home();
    std::fs::write(home.path().join("eab.key"), format!("{KEY}\n")).unwrap();
    Scene {
        proxy: home.start(&[]).await,
        double: backstage.double,
        pebble: backstage.pebble,
        blue: backstage.blue,
        green: backstage.green,
    }
}

#[tokio::test]
async fn a_ca_that_wants_accounts_bound_gets_them_bound() {
    let binding = format!(r#"{{ kid = "{KID}", hmac_key_file = "eab.key" }}"#);
    let scene = with_binding(Some(&binding)).await;
    scene.wait_until_issued().await;
    scene.trusting(HOST).await.unwrap();
    assert!(!scene.proxy.stderr().contains(&KEY[..20]));
}

#[tokio::test]
async fn a_missing_binding_is_said_in_the_ca_s_words() {
    let scene = with_binding(None).await;
    let error = scene.wait_until_failed().await;
    assert!(error.contains("cannot register with the CA"), "{error}");
    assert!(error.contains("externalAccountRequired"), "{error}");
}

#[tokio::test]
async fn a_profile_is_asked_for_and_one_that_is_not_offered_is_an_error() {
    let scene = Scene::issued_with(|backstage| {
        backstage.config.set("acme", "profile", r#""shortlived""#);
    })
    .await;
    let profile = scene.double.orders()[0].profile.clone();
    assert_eq!(profile.as_deref(), Some("shortlived"));

    let mut backstage = Backstage::prepare(Knobs::default()).await;
    backstage.config.set("acme", "profile", r#""tlsserver""#);
    let scene = backstage.start().await;
    let error = scene.wait_until_failed().await;
    let expected = r#"the CA has no profile "tlsserver"; it has classic, shortlived"#;
    assert!(error.contains(expected), "{error}");
    assert_eq!(scene.double.count(Part::Order), 0);
}

#[tokio::test]
async fn each_kind_of_key_is_served() {
    use x509_parser::prelude::{FromDer, X509Certificate};

    for (kind, bits) in [("p256", 256), ("p384", 384), ("rsa2048", 2048)] {
        let scene = Scene::issued_with(|backstage| {
            backstage.config.set("acme", "key", &format!("{kind:?}"));
        })
        .await;
        scene.trusting(HOST).await.unwrap();
        let leaf = scene.leaf().await;
        let (_, certificate) = X509Certificate::from_der(&leaf).unwrap();
        let key = certificate.public_key().parsed().unwrap();
        assert_eq!(key.key_size().next_multiple_of(128), bits, "{kind}");
    }
}

#[tokio::test]
async fn the_fallback_is_tried_when_the_first_ca_has_failed_twice() {
    let mut backstage = Backstage::prepare(Knobs::default()).await;
    let second = Double::start(backstage.pebble.address, &backstage.identity).await;
    let fallback = format!(
        r#"{{ directory = {:?}, ca_root = "ca.pem" }}"#,
        second.directory()
    );
    backstage.config.set("acme", "fallback", &fallback);
    backstage.double.be_down(true);
    let scene = backstage.start().await;
    scene.wait_until_failed().await;
    assert!(!scene.renew(&[]).await.status.success());
    assert_eq!(second.count(Part::Directory), 0);
    scene.renew_now().await;
    scene.trusting(HOST).await.unwrap();
    assert_eq!(second.orders().len(), 1);
    // It stays the one that is asked about its own certificate; the first one is no part of that.
    let asked = second.asked_about();
    assert!(scene.double.asked_about().is_empty());
    scene.double.be_down(false);
    scene.renew_now().await;
    assert_eq!(scene.double.orders()[0].replaces, None, "{asked:?}");
}

#[tokio::test]
async fn a_ca_that_asks_for_patience_does_not_hold_up_the_fallback() {
    let mut backstage = Backstage::prepare(Knobs::default()).await;
    let second = Double::start(backstage.pebble.address, &backstage.identity).await;
    let fallback = format!(
        r#"{{ directory = {:?}, ca_root = "ca.pem" }}"#,
        second.directory()
    );
    backstage.config.set("acme", "fallback", &fallback);
    let busy = Fault {
        status: 429,
        kind: "rateLimited",
        retry_after_s: Some(24 * 3600),
    };
    backstage.double.refuse(Part::Order, &[busy]);
    let scene = backstage.start().await;
    let error = scene.wait_until_failed().await;
    assert!(error.contains("rateLimited"), "{error}");
    let asked = scene.double.count(Part::Order);
    scene.renew_now().await;
    scene.trusting(HOST).await.unwrap();
    assert_eq!(second.orders().len(), 1);
    assert_eq!(scene.double.count(Part::Order), asked);
}

#[tokio::test]
async fn a_certificate_of_a_ca_that_is_configured_no_more_is_replaced() {
    let mut kept = None;
    let scene = Scene::issued_with(|backstage| kept = Some(backstage.config.clone())).await;
    let before = scene.leaf().await;
    let (identity, root) = (Identity::new(), scene.proxy.path().join("ca.pem"));
    let second = Double::start(scene.pebble.address, &identity).await;
    let mut config = kept.unwrap();
    config.set("acme", "directory", &format!("{:?}", second.directory()));
    // From the test environment to the other one: nobody has to think of renewing.
    std::fs::write(root, &identity.root).unwrap();
    scene.proxy.write_config(&config.text());
    scene.proxy.done("reload").await;
    eventually("one of the other CA", async || scene.leaf().await != before).await;
    assert_eq!(second.orders().len(), 1);
    assert_eq!(second.orders()[0].replaces, None);
    assert_eq!(scene.orders(), 1);
}

#[tokio::test]
async fn a_site_that_leaves_and_comes_back_during_an_order_has_one() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    let mut config = backstage.config.clone();
    let with_ca = config.text();
    config.site().set("certificate", r#""self-signed""#);
    backstage.double.hold(Part::Order);
    let scene = backstage.start().await;
    eventually("the order", async || scene.double.count(Part::Order) == 1).await;
    for text in [&config.text(), &with_ca] {
        scene.proxy.write_config(text);
        scene.proxy.done("reload").await;
    }
    scene.certificate().await;
    scene.double.release();
    scene.wait_until_issued().await;
    scene.trusting(HOST).await.unwrap();
    assert_eq!(scene.double.count(Part::Order), 1);
    scene.assert_nothing_is_left().await;
}

#[tokio::test]
async fn a_preflight_asks_this_proxy_before_the_ca_is_asked() {
    let mut backstage = Backstage::prepare(Knobs::default()).await;
    let nobody = crate::ca::local(crate::ca::free_port());
    backstage
        .config
        .set("acme", "preflight", r#""require""#)
        .set(
            "acme",
            "preflight_via",
            &format!("{:?}", nobody.to_string()),
        );
    let mut config = backstage.config.clone();
    let scene = backstage.start().await;
    let error = scene.wait_until_failed().await;
    assert!(
        error.contains("mana.so does not lead to this proxy: cannot connect"),
        "{error}"
    );
    assert_eq!(scene.double.count(Part::Directory), 0);

    let here = scene.proxy.http().to_string();
    config.set("acme", "preflight_via", &format!("{here:?}"));
    scene.proxy.write_config(&config.text());
    scene.proxy.done("reload").await;
    assert!(scene.renew(&[]).await.status.success());
    scene.trusting(HOST).await.unwrap();

    // A warning does not hold the order back.
    config.set("acme", "preflight", r#""warn""#).set(
        "acme",
        "preflight_via",
        &format!("{:?}", nobody.to_string()),
    );
    scene.proxy.write_config(&config.text());
    scene.proxy.done("reload").await;
    scene.renew_now().await;
    assert!(
        scene
            .proxy
            .stderr()
            .contains("does not seem to lead to this proxy")
    );
    scene.assert_nothing_is_left().await;
}

#[tokio::test]
async fn a_preflight_is_made_at_a_start_as_well() {
    let mut kept = None;
    let mut scene = Scene::issued_with(|backstage| kept = Some(backstage.config.clone())).await;
    let mut config = kept.unwrap();
    let here = scene.proxy.http().to_string();
    config
        .set("acme", "preflight", r#""warn""#)
        .set("acme", "preflight_via", &format!("{here:?}"));
    scene.proxy.write_config(&config.text());
    scene.proxy.sigkill().await;
    scene.proxy.restart(&[]).await;
    eventually("what was found", async || {
        let said = scene.proxy.stderr();
        said.matches("the name leads to this proxy over http")
            .count()
            == 2
    })
    .await;
    assert_eq!(scene.orders(), 1);
}

#[tokio::test]
async fn a_preflight_does_not_look_where_the_ca_does_not() {
    let mut backstage = Backstage::prepare(Knobs::default()).await;
    let nobody = crate::ca::local(crate::ca::free_port());
    backstage
        .config
        .set("acme", "challenge", r#""tls-alpn-01""#)
        .set("acme", "preflight", r#""require""#)
        .set(
            "acme",
            "preflight_via",
            &format!("{:?}", nobody.to_string()),
        );
    let scene = backstage.start().await;
    scene.wait_until_issued().await;
    assert_eq!(scene.certificate().await["failures"], 0);
}

//! What failures cost: attempts that come to nothing use up neither the week nor a certificate that was issued.

use crate::ca::Knobs;
use crate::double::{Fault, Part};
use crate::scene::{Backstage, Scene, stderr};
use crate::support::{HOST, within};

fn fault(status: u16, kind: &'static str) -> Fault {
    Fault {
        status,
        kind,
        retry_after_s: None,
    }
}

/// The scene of a daemon that was ended at this step of its first order, and has not been started again.
async fn ended_at(step: &str) -> (Backstage, crate::support::proxy::Home) {
    let backstage = Backstage::prepare(Knobs::default()).await;
    let home = backstage.home();
    let mut child = home.spawn(&[("MANA_PROXY_FAILPOINT", step)]);
    let status = within(step, child.wait()).await.unwrap();
    assert!(!status.success(), "{step}: {status}");
    (backstage, home)
}

#[tokio::test]
async fn an_order_that_the_ca_refuses_is_none_of_the_week() {
    let mut backstage = Backstage::prepare(Knobs::default()).await;
    backstage.config.set("acme", "orders_per_week", "1");
    // Nobody listens there.
    backstage.pebble.resolve("www.mana.so.", "127.0.0.9").await;
    let scene = backstage.start().await;
    let error = scene.wait_until_failed().await;
    assert!(error.contains("the CA has refused the order"), "{error}");
    let output = scene.renew(&["--force"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(scene.orders(), 2);
    scene.pebble.resolve("www.mana.so.", "127.0.0.1").await;
    scene.renew_now().await;
    scene.trusting(HOST).await.unwrap();
    // The one that was issued is the one of the week.
    let output = scene.renew(&["--force"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("1 certificates were ordered within a week"),
        "{output:?}"
    );
}

#[tokio::test]
async fn a_busy_ca_loses_no_order_that_was_begun() {
    let (backstage, home) = ended_at("acme-finalized").await;
    backstage.double.refuse(
        Part::Lookup,
        &[fault(503, "serverInternal"), fault(429, "rateLimited")],
    );
    let scene = Scene {
        proxy: home.start(&[]).await,
        double: backstage.double,
        pebble: backstage.pebble,
        blue: backstage.blue,
        green: backstage.green,
    };
    let error = scene.wait_until_failed().await;
    assert!(error.contains("serverInternal"), "{error}");
    let output = scene.renew(&[]).await;
    assert!(stderr(&output).contains("rateLimited"), "{output:?}");
    assert!(scene.renew(&[]).await.status.success());
    scene.trusting(HOST).await.unwrap();
    assert_eq!((scene.orders(), scene.finalized()), (1, 1));
    scene.assert_nothing_is_left().await;
}

#[tokio::test]
async fn an_order_that_the_ca_does_not_know_is_made_anew() {
    let (backstage, home) = ended_at("acme-order-stored").await;
    backstage
        .double
        .refuse(Part::Lookup, &[fault(404, "malformed")]);
    let scene = Scene {
        proxy: home.start(&[]).await,
        double: backstage.double,
        pebble: backstage.pebble,
        blue: backstage.blue,
        green: backstage.green,
    };
    scene.wait_until_failed().await;
    assert!(scene.renew(&[]).await.status.success());
    scene.trusting(HOST).await.unwrap();
    assert_eq!(scene.orders(), 2);
}

#[tokio::test]
async fn a_request_that_the_ca_refuses_is_not_made_again_for_the_same_order() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    backstage
        .double
        .refuse(Part::Finalize, &[fault(400, "badCSR")]);
    let scene = backstage.start().await;
    let error = scene.wait_until_failed().await;
    assert!(error.contains("badCSR"), "{error}");
    assert!(scene.leftovers().is_empty());
    scene.renew_now().await;
    assert_eq!((scene.orders(), scene.finalized()), (2, 1));
}

#[tokio::test]
async fn a_loop_of_crashes_stays_within_the_failures_of_an_hour() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    let home = backstage.home();
    for round in 0..10 {
        // Told to look while nobody answers: the CA declares each of these orders dead.
        let mut child = home.spawn(&[("MANA_PROXY_FAILPOINT", "acme-told")]);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), child.wait()).await;
        if ended.is_err() {
            // It is held back.
            assert!(round > 0);
            child.kill().await.unwrap();
            break;
        }
    }
    assert!(
        backstage.double.orders().len() <= 5,
        "{}",
        backstage.double.orders().len()
    );
}

#[tokio::test]
async fn what_is_not_taken_with_replaces_is_taken_without() {
    let scene = Scene::issued().await;
    for (status, kind) in [(403, "unauthorized"), (404, "malformed")] {
        scene.double.refuse(Part::Order, &[fault(status, kind)]);
        scene.renew_now().await;
        let orders = scene.double.orders();
        assert_eq!(orders.last().unwrap().replaces, None, "{kind}");
    }
    scene.renew_now().await;
    let orders = scene.double.orders();
    assert!(
        orders.last().unwrap().replaces.is_some(),
        "it is a courtesy still"
    );
    // A CA that takes it for nothing.
    scene.double.leave_out_replaces();
    scene.renew_now().await;
    let orders = scene.double.orders();
    assert_eq!(orders.last().unwrap().replaces, None);
    assert_eq!(scene.certificate().await["failures"], 0);
    scene.assert_nothing_is_left().await;
}

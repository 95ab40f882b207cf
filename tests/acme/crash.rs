//! `kill -9` between any two steps of an order: after the restart the same order is finished, and no other is made.

use crate::ca::Knobs;
use crate::scene::Backstage;
use crate::support::HOST;

/// Every step, in order.
const STEPS: [&str; 10] = [
    "acme-noted",
    "acme-order-stored",
    "acme-offered",
    "acme-told",
    "acme-ready",
    "acme-finalized",
    "acme-downloaded",
    "acme-bundle-written",
    "acme-bundle-stored",
    "acme-published",
];

async fn crash_at(step: &str) {
    let backstage = Backstage::prepare(Knobs::default()).await;
    let home = backstage.home();
    let environment = [("MANA_PROXY_FAILPOINT", step)];
    let mut child = home.spawn(&environment);
    let status = crate::support::within(step, child.wait()).await.unwrap();
    assert!(!status.success(), "{step}: {status}");

    let scene = crate::scene::Scene {
        proxy: home.start(&[]).await,
        double: backstage.double,
        pebble: backstage.pebble,
        blue: backstage.blue,
        green: backstage.green,
    };
    scene.wait_until_issued().await;
    scene.trusting(HOST).await.unwrap();
    // A CA that finds nobody while it validates declares the order dead; then, and only then, there has to be another.
    let most = if step == "acme-told" { 2 } else { 1 };
    assert!(scene.orders() <= most, "{step}: {} orders", scene.orders());
    assert_eq!(scene.finalized(), 1, "{step}");
    scene.assert_nothing_is_left().await;
}

#[tokio::test]
async fn a_crash_at_any_step_of_an_order_makes_no_second_order() {
    for step in STEPS {
        crash_at(step).await;
    }
}

#[tokio::test]
async fn a_proxy_that_is_killed_over_and_over_finishes_one_order() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    let home = backstage.home();
    let steps = [
        "acme-order-stored",
        "acme-offered",
        "acme-ready",
        "acme-finalized",
    ];
    for step in steps {
        let mut child = home.spawn(&[("MANA_PROXY_FAILPOINT", step)]);
        crate::support::within(step, child.wait()).await.unwrap();
    }
    let scene = crate::scene::Scene {
        proxy: home.start(&[]).await,
        double: backstage.double,
        pebble: backstage.pebble,
        blue: backstage.blue,
        green: backstage.green,
    };
    scene.wait_until_issued().await;
    assert_eq!((scene.orders(), scene.finalized()), (1, 1));
    scene.assert_nothing_is_left().await;
}

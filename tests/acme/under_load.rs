//! Certificates are swapped under users, and no user notices.

use crate::scene::Scene;
use crate::support::load::Load;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_renewals_under_load_are_noticed_by_nobody() {
    let scene = Scene::issued().await;
    scene.proxy.wait_for_health("blue", true).await;
    let load = Load::requests(&scene.proxy);
    for _ in 0..100 {
        scene.renew_now().await;
        load.goes_on_for(5).await;
    }
    let tally = load.stop().await;
    tally.assert_unnoticed();
    assert!(
        tally.answered > 500,
        "{} requests are no load",
        tally.answered
    );
    assert_eq!(scene.orders(), 101);
    scene.assert_nothing_is_left().await;
}

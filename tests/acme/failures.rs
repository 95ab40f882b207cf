//! Whatever goes wrong: it is said, in the CA's words where there are some, and the certificate that works stays.

use std::process::Output;

use crate::ca::{Identity, Knobs};
use crate::double::{Fault, Issue, Part};
use crate::scene::{Backstage, Scene, stderr};
use crate::support::{ALIAS, HOST};

const DAY: i64 = 24 * 3600;

/// `certs renew --force` fails with these words; what is served is what was.
async fn assert_refused(scene: &Scene, words: &[&str]) {
    let before = scene.leaf().await;
    let output = scene.renew(&["--force"]).await;
    assert_was_refused(scene, output, before, words).await;
}

async fn assert_was_refused(scene: &Scene, output: Output, before: Vec<u8>, words: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    for word in words {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert_eq!(scene.leaf().await, before);
    let certificate = scene.certificate().await;
    assert_eq!(certificate["has_certificate"], true);
    assert!(
        certificate["error"].as_str().unwrap().contains(words[0]),
        "{certificate}"
    );
    let metrics = scene.proxy.metrics().await;
    let failed = r#"mana_proxy_certificate_attempts_total{result="failed",site="mana.so"} "#;
    assert!(metrics.contains(failed), "{metrics}");
    assert!(metrics.contains("\nmana_proxy_certificate_challenges 0\n"));
}

#[tokio::test]
async fn a_rate_limit_is_obeyed_by_everybody_and_over_a_restart() {
    let mut scene = Scene::issued().await;
    scene.double.refuse(
        Part::Order,
        &[Fault {
            status: 429,
            kind: "rateLimited",
            retry_after_s: Some(7200),
        }],
    );
    assert_refused(&scene, &["the double says rateLimited"]).await;
    let asked = scene.double.count(Part::Order);
    for _ in 0..2 {
        let output = scene.renew(&["--force"]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = stderr(&output);
        assert!(
            said.contains("the CA asked not to be asked before 20"),
            "{said}"
        );
        scene.proxy.sigkill().await;
        scene.proxy.restart(&[]).await;
    }
    assert_eq!(scene.double.count(Part::Order), asked);
}

#[tokio::test]
async fn a_ca_that_gives_no_account_yet_is_waited_for() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    let fault = Fault {
        status: 429,
        kind: "rateLimited",
        retry_after_s: Some(7200),
    };
    backstage.double.refuse(Part::Account, &[fault]);
    let scene = backstage.start().await;
    let error = scene.wait_until_failed().await;
    assert!(error.contains("cannot register with the CA"), "{error}");
    let output = scene.renew(&["--force"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("the CA asked not to be asked before 20"),
        "{output:?}"
    );
}

#[tokio::test]
async fn a_wish_for_endless_patience_is_granted_for_a_week() {
    let scene = Scene::issued().await;
    let endless = |status, kind| Fault {
        status,
        kind,
        retry_after_s: Some(9_999_999_999_999_999_999),
    };
    // Added to a clock, it would be past the end of time.
    scene
        .double
        .refuse(Part::Advice, &[endless(200, "notAnError")]);
    let output = scene.renew(&[]).await;
    assert!(output.status.success(), "{output:?}");
    scene
        .double
        .refuse(Part::Order, &[endless(503, "serverInternal")]);
    assert_refused(&scene, &["serverInternal"]).await;
    let output = scene.renew(&["--force"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("the CA asked not to be asked before 20"),
        "{output:?}"
    );
    assert!(!scene.proxy.stderr().contains("panicked"));
}

#[tokio::test]
async fn a_first_failure_is_waited_out_over_restarts() {
    let backstage = Backstage::prepare(Knobs::default()).await;
    backstage.double.be_down(true);
    let mut scene = backstage.start().await;
    let error = scene.wait_until_failed().await;
    assert!(error.contains("cannot reach 127.0.0.1"), "{error}");
    scene.double.be_down(false);
    for _ in 0..5 {
        scene.proxy.sigkill().await;
        scene.proxy.restart(&[]).await;
        assert_eq!(scene.certificate().await["failures"], 1);
    }
    assert_eq!(scene.double.count(Part::Directory), 0);
    let held_back = scene.certificate().await["held_back"].clone();
    let held_back = held_back.as_str().unwrap();
    assert!(
        held_back.contains("the last attempt failed; the next one is at 20"),
        "{held_back}"
    );
    // An operator who has mended it need not wait.
    assert!(scene.renew(&[]).await.status.success());
    scene.trusting(HOST).await.unwrap();
    assert_eq!(scene.certificate().await["failures"], 0);
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_is_reported_with_the_ca_s_own_problem() {
    let scene = Scene::issued().await;
    // Nobody listens there.
    scene.pebble.resolve("www.mana.so.", "127.0.0.9").await;
    let (mut before, mut output) = (scene.leaf().await, scene.renew(&["--force"]).await);
    if output.status.success() {
        // Of a hundred validations pebble uses one again, even if it is told to use none.
        (before, output) = (scene.leaf().await, scene.renew(&["--force"]).await);
    }
    let words = ["www.mana.so: ", "urn:ietf:params:acme:error:connection"];
    assert_was_refused(&scene, output, before, &words).await;
    let said = scene.certificate().await["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        !said.contains("; mana.so: ") && !said.contains("order: mana.so"),
        "{said}"
    );
    assert!(scene.leftovers().is_empty(), "a dead order is forgotten");
    scene.pebble.resolve("www.mana.so.", "127.0.0.1").await;
    scene.renew_now().await;
    scene.trusting(ALIAS).await.unwrap();
}

#[tokio::test]
async fn what_a_broken_ca_issues_is_neither_stored_nor_served() {
    let scene = Scene::issued().await;
    let path = scene
        .proxy
        .path()
        .join("run/state/certs/mana.so/bundle.pem");
    let stored = std::fs::read(&path).unwrap();
    let other_names = Issue {
        names: Some(vec![HOST.to_owned()]),
        ..Issue::dated(-60, 90 * DAY)
    };
    let other_key = Issue {
        is_for_other_key: true,
        ..Issue::dated(-60, 90 * DAY)
    };
    for (issue, words) in [
        (other_names, "does not cover www.mana.so"),
        (other_key, "the key does not belong to the certificate"),
    ] {
        scene.double.issue(&[issue]);
        assert_refused(&scene, &[words]).await;
        assert_eq!(std::fs::read(&path).unwrap(), stored);
        assert!(scene.leftovers().is_empty());
    }
}

#[tokio::test]
async fn a_certificate_of_tomorrow_is_kept_for_when_the_clock_is_right() {
    let scene = Scene::issued().await;
    // A clock that is a day behind sees this. The double gives it out once; after that it is pebble's own.
    scene.double.issue(&[Issue::dated(DAY, 90 * DAY)]);
    assert_refused(&scene, &["is the clock right?"]).await;
    assert_eq!(scene.leftovers().len(), 1, "the order is not given up");
    scene.renew_now().await;
    scene.trusting(HOST).await.unwrap();
    assert_eq!((scene.orders(), scene.finalized()), (2, 2));
    scene.assert_nothing_is_left().await;
}

#[tokio::test]
async fn an_expired_certificate_is_not_taken_either() {
    let scene = Scene::issued().await;
    scene.double.issue(&[Issue::dated(-90 * DAY, -DAY)]);
    assert_refused(&scene, &["expired on"]).await;
}

#[tokio::test]
async fn four_failures_within_an_hour_are_the_most() {
    let scene = Scene::issued().await;
    let fault = Fault {
        status: 500,
        kind: "serverInternal",
        retry_after_s: None,
    };
    scene.double.refuse(Part::Order, &[fault; 10]);
    for _ in 0..4 {
        assert_refused(&scene, &["serverInternal"]).await;
    }
    let output = scene.renew(&["--force"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("4 attempts have failed within an hour"),
        "{output:?}"
    );
}

#[tokio::test]
async fn an_account_that_the_ca_has_forgotten_is_registered_anew() {
    let mut scene = Scene::issued().await;
    scene.pebble.forget_everything().await;
    scene.renew_now().await;
    assert_eq!(scene.double.registered(), 2);
    scene.trusting(HOST).await.unwrap();
}

#[tokio::test]
async fn an_account_that_the_ca_has_closed_is_reported() {
    let scene = Scene::issued().await;
    let fault = Fault {
        status: 403,
        kind: "unauthorized",
        retry_after_s: None,
    };
    // With the certificate before it, and without.
    scene.double.refuse(Part::Order, &[fault; 2]);
    assert_refused(&scene, &["the CA does not take the order", "unauthorized"]).await;
}

#[tokio::test]
async fn a_ca_of_another_root_is_not_spoken_to() {
    let scene = Scene::issued().await;
    let other = Identity::new().root;
    std::fs::write(scene.proxy.path().join("ca.pem"), other).unwrap();
    let asked = scene.double.count(Part::Directory);
    assert_refused(
        &scene,
        &["cannot reach 127.0.0.1", "invalid peer certificate"],
    )
    .await;
    assert_eq!(scene.double.count(Part::Directory), asked);
    std::fs::write(scene.proxy.path().join("ca.pem"), "nothing").unwrap();
    assert_refused(&scene, &["ca.pem", "it has no certificate"]).await;
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_found_out_before_the_ca_is_asked() {
    let scene = Scene::issued().await;
    // Not even root can write to a directory.
    let blocked = scene
        .proxy
        .path()
        .join("run/state/certs/mana.so/ledger.json.tmp");
    std::fs::create_dir(&blocked).unwrap();
    let asked = scene.double.count(Part::Order);
    let before = scene.leaf().await;
    let output = scene.renew(&["--force"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains("is the disk full or read-only?"),
        "{output:?}"
    );
    assert_eq!(scene.double.count(Part::Order), asked);
    assert_eq!(scene.leaf().await, before);
    std::fs::remove_dir(&blocked).unwrap();
    scene.renew_now().await;
}

#[tokio::test]
async fn a_ca_whose_name_is_not_found_is_named() {
    let mut backstage = Backstage::prepare(Knobs::default()).await;
    // RFC 6761 s6.4: no resolver finds anything below `invalid`.
    backstage
        .config
        .set("acme", "directory", r#""https://ca.invalid/dir""#);
    let scene = backstage.start().await;
    let error = scene.wait_until_failed().await;
    assert!(error.contains("cannot reach ca.invalid"), "{error}");
    assert_eq!(scene.certificate().await["failures"], 1);
}

#[tokio::test]
async fn a_ca_that_refuses_half_of_all_nonces_still_issues() {
    let knobs = Knobs {
        environment: vec![("PEBBLE_WFE_NONCEREJECT", "50")],
        eab: None,
    };
    let scene = Backstage::prepare(knobs).await.start().await;
    scene.wait_until_issued().await;
    assert_eq!(scene.certificate().await["failures"], 0);
    assert_eq!(scene.orders(), 1);
}

#[tokio::test]
async fn a_ca_that_takes_its_time_is_waited_for() {
    let knobs = Knobs {
        environment: vec![("PEBBLE_VA_NOSLEEP", ""), ("PEBBLE_VA_SLEEPTIME", "3")],
        eab: None,
    };
    let scene = Backstage::prepare(knobs).await.start().await;
    scene.wait_until_issued().await;
    assert_eq!(scene.certificate().await["failures"], 0);
    assert_eq!(scene.orders(), 1);
}

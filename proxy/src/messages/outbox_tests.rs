//! The outbox on a real disk: its bound, its order, whose it is.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A message that is sent to this fingerprint.
pub(in crate::messages) fn letter(to: &str) -> Letter {
    Letter {
        id: "msg_1".to_owned(),
        kind: Kind::Slack,
        to: to.to_owned(),
        host: "hooks.example".to_owned(),
        event: Event::Started,
        deploy: 17,
        put_ms: 1_795_338_001_004,
        attempts: 0,
        not_before_ms: 0,
        failure: None,
        body: "{}".to_owned(),
    }
}

fn outbox() -> (tempfile::TempDir, Outbox) {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(&dir.path().join("a/outbox")).unwrap();
    (dir, outbox)
}

#[test]
fn a_message_is_read_as_it_was_written() {
    let (_dir, outbox) = outbox();
    let mut written = letter("x");
    outbox.add(&written).unwrap();
    let name = outbox.names().unwrap().pop_first().unwrap();
    assert_eq!(outbox.read(&name).unwrap(), Some(written.clone()));
    written.attempts = 1;
    outbox.write(&name, &written).unwrap();
    assert_eq!(outbox.read(&name).unwrap(), Some(written));
    outbox.remove(&name).unwrap();
    outbox.remove(&name).unwrap();
    assert_eq!(outbox.read(&name).unwrap(), None);
    assert_eq!(std::fs::read_dir(&outbox.0).unwrap().count(), 0);
}

#[test]
fn whoever_deploys_next_can_go_on_with_the_outbox() {
    let dir = tempfile::tempdir().unwrap();
    // As the package makes it: what is made in it is of its group.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o2770)).unwrap();
    let outbox = Outbox::open(&dir.path().join("outbox")).unwrap();
    outbox.add(&letter("x")).unwrap();
    let _lock = outbox.lock().unwrap();
    let name = outbox.names().unwrap().pop_first().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&outbox.0), 0o2770);
    assert_eq!(mode(&outbox.path_of(&name)), 0o660);
    assert_eq!(mode(&outbox.path_of(LOCK_NAME)), 0o660);
    // What was narrower is widened by whoever can.
    std::fs::set_permissions(&outbox.0, std::fs::Permissions::from_mode(0o2700)).unwrap();
    Outbox::open(&outbox.0).unwrap();
    assert_eq!(mode(&outbox.0), 0o2770);
}

#[test]
fn messages_keep_their_order_when_the_clock_goes_back() {
    let (_dir, outbox) = outbox();
    let from_the_future = "09999999999999999999-msg_0.json";
    outbox.write(from_the_future, &letter("x")).unwrap();
    let mut second = letter("x");
    second.deploy = 18;
    outbox.add(&second).unwrap();
    let names: Vec<String> = outbox.names().unwrap().into_iter().collect();
    assert_eq!(names[0], from_the_future);
    assert_eq!(outbox.read(&names[1]).unwrap(), Some(second));
}

#[test]
fn what_is_no_message_is_damaged() {
    let (_dir, outbox) = outbox();
    let good = serde_json::to_string(&letter("x")).unwrap();
    let half = &good[..good.len() / 2];
    let too_long = good.replace("{}", &"x".repeat(FILE_BYTES_MAX as usize));
    let bad_id = good.replace("msg_1", "msg\\r\\n1");
    for damaged in ["", "{}", half, &too_long, &bad_id] {
        std::fs::write(outbox.path_of("1.json"), damaged).unwrap();
        assert!(outbox.read("1.json").is_err());
    }
    std::fs::write(outbox.path_of("1.json"), good).unwrap();
    assert!(outbox.read("1.json").unwrap().is_some());
    std::fs::create_dir(outbox.path_of("2.json")).unwrap();
    assert!(outbox.read("2.json").is_err());
}

#[test]
fn one_sender_holds_the_lock() {
    let (_dir, outbox) = outbox();
    let held = outbox.lock().unwrap();
    assert!(held.is_some());
    assert!(outbox.lock().unwrap().is_none());
    drop(held);
    assert!(outbox.lock().unwrap().is_some());
}

#[test]
fn what_a_killed_process_leaves_is_swept_once_it_is_old() {
    let (_dir, outbox) = outbox();
    outbox.add(&letter("x")).unwrap();
    let temp = outbox.path_of(".1.json.tmp");
    std::fs::write(&temp, "{").unwrap();
    assert_eq!(outbox.names().unwrap().len(), 1);
    let now = SystemTime::now();
    outbox.sweep(now);
    assert!(temp.exists());
    outbox.sweep(now + TEMP_AGE_MIN + Duration::from_secs(1));
    assert!(!temp.exists());
    assert_eq!(outbox.names().unwrap().len(), 1);
}

#[test]
fn a_directory_that_is_none_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox");
    std::fs::write(&path, "a file").unwrap();
    let error = Outbox::open(&path).unwrap_err();
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn there_is_nothing_to_wait_for_without_an_outbox() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(waiting(&dir.path().join("none")).unwrap(), []);
}

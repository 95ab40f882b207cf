//! Orders from call to reply, on a real disk and real upstreams.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::table::SiteSettings;
use crate::testing::{Backend, Daemon, settings};

/// Nobody listens on either slot: for what needs no gate.
pub(super) fn nowhere() -> [SiteSettings; 1] {
    [settings("mana.so", "127.0.0.1:1", "127.0.0.1:2")]
}

pub(super) fn number(reply: &Reply, field: &str) -> u64 {
    reply
        .field(field)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{field} in {reply:?}"))
}

#[tokio::test]
async fn switch_replies_after_blue_has_drained() {
    let (blue, green) = (Backend::start(&[200]).await, Backend::start(&[200]).await);
    let daemon = Daemon::start(&[settings("mana.so", &blue.address(), &green.address())]).await;
    let inside = daemon.enter(Slot::Blue);
    let switch = tokio::spawn(daemon.ask("switch green --note 'release 41'"));
    daemon.until(|site| site.active == Slot::Green).await;
    let status = daemon.ask("status").await;
    assert_eq!(
        status.field("sites").expect("sites")[0]["slots"]["blue"]["in_flight"],
        1
    );
    assert!(!switch.is_finished());
    drop(daemon.enter(Slot::Green));
    drop(inside);
    let reply = switch.await.expect("reply");
    assert!(reply.ok(), "{reply:?}");
    for (field, expected) in [
        ("site", Value::from("mana.so")),
        ("active", Value::from("green")),
        ("previous", Value::from("blue")),
        ("generation", Value::from(2)),
        ("drained", Value::from(true)),
        ("in_flight", Value::from(0)),
        ("tunnels_cut", Value::from(0)),
    ] {
        assert_eq!(reply.field(field), Some(&expected), "{field} in {reply:?}");
    }
    assert!(reply.field("first_request_us").expect("field").is_u64());
    assert!(reply.field("took_ms").expect("field").is_u64());
    let history = daemon.ask("history").await;
    let entry = &history.field("entries").expect("entries")[0];
    assert_eq!(
        (&entry["note"], &entry["outcome"]),
        (&Value::from("release 41"), &Value::from("drained"))
    );
    assert_eq!(
        (&entry["from"], &entry["to"], &entry["command"]),
        (&"blue".into(), &"green".into(), &"test".into())
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_slot_that_does_not_answer_as_expected_is_refused_by_name() {
    for (statuses, part) in [
        (&[500][..], "answered 500"),
        (&[404], "answered 404"),
        (&[301], "answered 301"),
    ] {
        let statuses: &'static [u16] = Box::leak(statuses.into());
        let green = Backend::start(statuses).await;
        let daemon = Daemon::start(&[settings("mana.so", "127.0.0.1:1", &green.address())]).await;
        let reply = daemon.ask("switch green").await;
        assert_eq!(reply.code(), Some(Code::Refused));
        let error = reply.error().expect("error");
        assert!(
            error.starts_with(&format!("green {} {part}", green.address())),
            "{error}"
        );
        assert!(reply.hint().expect("hint").contains("nothing was changed"));
        assert_eq!(
            (
                daemon.site().active,
                daemon.running.published.load().generation
            ),
            (Slot::Blue, 1)
        );
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_wait_and_says_so() {
    let daemon = Daemon::start(&nowhere()).await;
    let inside = daemon.enter(Slot::Blue);
    let reply = daemon.ask("switch green --force --drain-timeout 2s").await;
    assert_eq!(
        (reply.field("drained"), number(&reply, "in_flight")),
        (Some(&Value::from(false)), 1)
    );
    assert!(
        (2000..2500).contains(&number(&reply, "took_ms")),
        "{reply:?}"
    );
    // The request goes on, is counted, and stands in the way of the promise that a no-op gives.
    let again = daemon.ask("switch green").await;
    assert_eq!(
        (again.field("drained"), number(&again, "generation")),
        (Some(&Value::from(false)), 2)
    );
    drop(inside);
    let again = daemon.ask("switch green").await;
    assert_eq!(
        (again.field("drained"), again.field("changed")),
        (Some(&true.into()), Some(&false.into()))
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tunnels_are_told_to_close_at_their_deadline() {
    let daemon = Daemon::start(&nowhere()).await;
    let mut tunnel = daemon.enter(Slot::Blue);
    tunnel.become_tunnel();
    let data_plane = tokio::spawn(async move {
        tunnel.until_cut().await;
        drop(tunnel);
    });
    let reply = daemon.ask("switch green --force").await;
    data_plane.await.expect("closed");
    assert_eq!(
        (reply.field("drained"), number(&reply, "tunnels_cut")),
        (Some(&true.into()), 1)
    );
    assert!(
        (10_000..11_000).contains(&number(&reply, "took_ms")),
        "{reply:?}"
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stuck_download_does_not_hold_up_the_way_back() {
    let daemon = Daemon::start(&nowhere()).await;
    let stuck = daemon.enter(Slot::Blue);
    let first = tokio::spawn(daemon.ask("switch green --force"));
    daemon.until(|site| site.active == Slot::Green).await;
    let back = daemon.ask("rollback --force").await;
    assert_eq!(
        (back.field("active"), back.field("drained")),
        (Some(&"blue".into()), Some(&true.into()))
    );
    let first = first.await.expect("reply");
    assert_eq!(number(&first, "superseded_by"), 3);
    assert_eq!(
        (first.field("drained"), number(&first, "in_flight")),
        (Some(&false.into()), 1)
    );
    assert_eq!(first.field("active"), Some(&"green".into()));
    // The download of the first table still counts when blue is left for good.
    let last = daemon.ask("switch green --force --drain-timeout 1s").await;
    assert_eq!(number(&last, "in_flight"), 1);
    drop(stuck);
    daemon.stop().await;
}

/// Accepts and never answers.
async fn silent() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    (listener, address)
}

#[tokio::test]
async fn a_second_caller_is_told_who_holds_the_site() {
    let (_listener, address) = silent().await;
    let daemon = Daemon::start(&[settings("mana.so", "127.0.0.1:1", &address)]).await;
    let first = tokio::spawn(daemon.ask("switch green"));
    tokio::task::yield_now().await;
    let reply = daemon.ask("switch green").await;
    assert_eq!(reply.code(), Some(Code::Busy));
    let error = reply.error().expect("error");
    let pid = format!("pid {}", std::process::id());
    assert!(
        error.contains("by test (uid ") && error.contains(&pid) && error.contains("since 20"),
        "{error}"
    );
    assert_eq!(daemon.ask("reload").await.code(), Some(Code::Busy));
    let status = daemon.ask("status").await;
    assert_eq!(
        status.field("sites").expect("sites")[0]["cutover"],
        "gating"
    );
    let refused = first.await.expect("reply");
    assert!(
        refused
            .error()
            .expect("error")
            .contains("did not answer within 500 ms"),
        "{refused:?}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_caller_who_goes_away_ends_the_gate() {
    let (_listener, address) = silent().await;
    let daemon = Daemon::start(&[settings("mana.so", "127.0.0.1:1", &address)]).await;
    let first = tokio::spawn(daemon.ask("switch green"));
    tokio::task::yield_now().await;
    assert_eq!(daemon.ask("switch green").await.code(), Some(Code::Busy));
    first.abort();
    let free = async {
        loop {
            let status = daemon.ask("status").await;
            if status.field("sites").expect("sites")[0]["cutover"] == "steady" {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(1), free)
        .await
        .expect("within a second");
    daemon.stop().await;
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_published() {
    let daemon = Daemon::start(&nowhere()).await;
    let in_the_way = daemon.dir.path().join("state.json.tmp");
    std::fs::create_dir(&in_the_way).expect("dir");
    for line in ["switch green --force", "maintenance on", "drain green"] {
        let reply = daemon.ask(line).await;
        assert_eq!(reply.code(), Some(Code::Failed), "{reply:?}");
        assert!(
            reply
                .error()
                .expect("error")
                .contains("cannot store the state"),
            "{reply:?}"
        );
    }
    assert_eq!(
        (
            daemon.site().active,
            daemon.running.published.load().generation
        ),
        (Slot::Blue, 1)
    );
    std::fs::remove_dir(&in_the_way).expect("dir");
    assert!(daemon.ask("switch green --force").await.ok());
    daemon.stop().await;
}

#[tokio::test]
async fn a_generation_that_has_moved_on_is_a_conflict() {
    let daemon = Daemon::start(&nowhere()).await;
    let reply = daemon.ask("switch green --force --if-generation 4").await;
    assert_eq!(
        (reply.code(), number(&reply, "generation")),
        (Some(Code::Conflict), 1)
    );
    assert!(
        daemon
            .ask("switch green --force --if-generation 1")
            .await
            .ok()
    );
    daemon.stop().await;
}

#[tokio::test]
async fn the_state_outlives_the_daemon() {
    let daemon = Daemon::start(&nowhere()).await;
    assert_eq!(daemon.ask("rollback").await.code(), Some(Code::Refused));
    assert!(daemon.ask("switch green --force").await.ok());
    assert!(daemon.ask("drain blue").await.ok());
    assert!(daemon.ask("maintenance on").await.ok());
    let dir = daemon.stop().await;
    let daemon = Daemon::start_in(dir, &nowhere(), Arc::new(crate::hooks::NoHooks)).await;
    let site = daemon.site();
    assert_eq!((site.active, site.generation), (Slot::Green, 2));
    assert_eq!(daemon.running.published.load().generation, 4);
    assert!(site.slot(Slot::Blue).is_drained && matches!(site.mode, Mode::Maintenance));
    assert!(daemon.ask("drain blue undo").await.ok());
    assert!(!daemon.site().slot(Slot::Blue).is_drained);
    assert!(daemon.ask("rollback --force").await.ok());
    assert_eq!(daemon.site().active, Slot::Blue);
    daemon.stop().await;
}

#[tokio::test]
async fn one_of_several_sites_has_to_be_named() {
    let other = settings("other.so", "127.0.0.1:3", "127.0.0.1:4");
    let daemon = Daemon::start(&[nowhere()[0].clone(), other]).await;
    let reply = daemon.ask("switch green --force").await;
    assert_eq!(reply.code(), Some(Code::Invalid));
    assert!(
        reply.error().expect("error").contains("mana.so, other.so"),
        "{reply:?}"
    );
    assert_eq!(
        daemon.ask("pause --site third.so").await.code(),
        Some(Code::Invalid)
    );
    assert!(
        daemon
            .ask("switch green --force --site other.so")
            .await
            .ok()
    );
    assert_eq!(daemon.site().active, Slot::Blue);
    let all = daemon.ask("status").await;
    assert_eq!(
        all.field("sites").and_then(Value::as_array).map(Vec::len),
        Some(2)
    );
    let one = daemon.ask("status --site other.so").await;
    assert_eq!(one.field("sites").expect("sites")[0]["active"], "green");
    daemon.stop().await;
}

#[tokio::test]
async fn a_full_queue_is_busy() {
    let daemon = Daemon::start(&nowhere()).await;
    // The driver does not run while nothing here is awaited.
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting: Vec<_> = (0..DRIVER_QUEUE_MAX)
        .map(|_| Box::pin(daemon.ask("status")))
        .collect();
    for call in &mut waiting {
        assert!(call.as_mut().poll(&mut context).is_pending());
    }
    let Poll::Ready(reply) = pin!(daemon.ask("status")).poll(&mut context) else {
        panic!("answered at once");
    };
    assert_eq!(reply.code(), Some(Code::Busy));
    for call in waiting {
        assert!(call.await.ok());
    }
    daemon.stop().await;
}

#[tokio::test]
async fn orders_are_bounded_and_status_is_answered_while_the_disk_hangs() {
    let daemon = Daemon::start(&nowhere()).await;
    // A pipe without a reader stands for a disk that does not answer.
    let pipe = daemon.dir.path().join("state.json.tmp");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let mut orders = Vec::new();
    for _ in 0..ORDERS_MAX {
        orders.push(tokio::spawn(daemon.ask("maintenance on")));
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    let reply = daemon.ask("maintenance on").await;
    assert_eq!(reply.code(), Some(Code::Busy), "{reply:?}");
    assert!(daemon.ask("status").await.ok());
    let reader = tokio::task::spawn_blocking({
        let pipe = pipe.clone();
        move || std::fs::File::open(pipe)
    });
    let reader = reader.await.expect("task").expect("reader");
    std::fs::remove_file(&pipe).expect("removed");
    let mut failed = 0;
    for order in orders {
        failed += usize::from(!order.await.expect("reply").ok());
    }
    assert!(failed < ORDERS_MAX, "the disk came back");
    drop(reader);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_whoever_waits() {
    let daemon = Daemon::start(&nowhere()).await;
    let inside = daemon.enter(Slot::Blue);
    let switch = tokio::spawn(daemon.ask("switch green --force"));
    daemon.until(|site| site.active == Slot::Green).await;
    let handle = daemon.running.handle.clone();
    daemon.stop().await;
    let reply = switch.await.expect("reply");
    assert_eq!(
        (
            reply.ok(),
            reply.field("drained"),
            number(&reply, "in_flight")
        ),
        (true, Some(&false.into()), 1)
    );
    let late = handle
        .call(
            Request::new(crate::wire::Verb::Status),
            Caller::default(),
            None,
        )
        .await;
    assert_eq!(late.code(), Some(Code::Failed));
    drop(inside);
}

#[tokio::test(start_paused = true)]
async fn a_caller_may_follow_the_progress() {
    let daemon = Daemon::start(&nowhere()).await;
    let inside = daemon.enter(Slot::Blue);
    let (events, mut lines) = mpsc::channel(EVENTS_MAX);
    let request =
        Request::parse(b"switch green --force --progress --drain-timeout 3s").expect("request");
    let reply = daemon
        .running
        .handle
        .call(request, Caller::default(), Some(events))
        .await;
    assert!(reply.ok());
    let mut names = Vec::new();
    while let Ok(line) = lines.try_recv() {
        names.push(line["event"].as_str().expect("text").to_owned());
    }
    assert_eq!(names[..3], ["persisting", "published", "draining"]);
    assert!(
        names[3..].len() >= 2 && names[3..].iter().all(|name| name == "draining"),
        "{names:?}"
    );
    drop(inside);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_does_not_read_loses_event_lines_and_not_the_reply() {
    let daemon = Daemon::start(&nowhere()).await;
    let inside = daemon.enter(Slot::Blue);
    let (events, mut lines) = mpsc::channel(EVENTS_MAX);
    let request = Request::parse(b"switch green --force --progress").expect("request");
    let reply = daemon
        .running
        .handle
        .call(request, Caller::default(), Some(events))
        .await;
    assert_eq!(number(&reply, "in_flight"), 1);
    let mut kept = 0;
    while lines.try_recv().is_ok() {
        kept += 1;
    }
    assert_eq!(kept, EVENTS_MAX);
    drop(inside);
    daemon.stop().await;
}

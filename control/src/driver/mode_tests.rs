//! Orders that are no cutover: drain, pause, maintenance, reload.

use std::sync::atomic::{AtomicBool, Ordering};

use super::tests::{nowhere, number};
use super::*;
use crate::table::SiteSettings;
use crate::testing::{Backend, Daemon, settings};

#[tokio::test]
async fn drain_empties_a_standby_and_refuses_the_active_slot() {
    let daemon = Daemon::start(&nowhere()).await;
    let reply = daemon.ask("drain blue").await;
    assert_eq!(reply.code(), Some(Code::Refused));
    assert!(reply.hint().expect("hint").contains("switch"));
    let backup = daemon.enter(Slot::Green);
    let active = daemon.enter(Slot::Blue);
    let drain = tokio::spawn(daemon.ask("drain green"));
    daemon.until(|site| site.slot(Slot::Green).is_drained).await;
    assert!(backup.is_closing() && !active.is_closing());
    drop(backup);
    let reply = drain.await.expect("reply");
    assert_eq!(
        (reply.field("drained"), reply.field("slot")),
        (Some(&true.into()), Some(&"green".into()))
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_probe_says_whether_a_slot_would_pass_and_changes_nothing() {
    let (good, bad) = (Backend::start(&[200]).await, Backend::start(&[500]).await);
    let mut sites = nowhere();
    sites[0].upstreams = [vec![bad.address()], vec![good.address()]];
    let daemon = Daemon::start(&sites).await;
    let before = daemon.site().generation;
    let reply = daemon.ask("probe green").await;
    assert!(reply.ok(), "{reply:?}");
    assert_eq!(
        (number(&reply, "pass"), number(&reply, "upstreams")),
        (2, 1)
    );
    let reply = daemon.ask("probe blue").await;
    assert_eq!(reply.code(), Some(Code::Refused));
    let error = reply.error().expect("error");
    assert!(
        error.contains("answered 500 where 200 is expected"),
        "{error}"
    );
    let site = daemon.site();
    assert_eq!((site.active, site.generation), (Slot::Blue, before));
    daemon.stop().await;
}

#[tokio::test]
async fn a_reserved_slot_is_left_to_whoever_has_it_for_as_long_as_they_are_there() {
    let (blue, green) = (Backend::start(&[200]).await, Backend::start(&[200]).await);
    let daemon = Daemon::start(&[settings("mana.so", &blue.address(), &green.address())]).await;
    let call = |line: &str, pid: i32| {
        let request = crate::wire::Request::parse(line.as_bytes()).expect("request");
        let caller = Caller {
            pid: Some(pid),
            command: "deployer".to_owned(),
            ..Caller::default()
        };
        let handle = daemon.running.handle.clone();
        async move { handle.call(request, caller, None).await }
    };
    assert_eq!(call("reserve blue", 1).await.code(), Some(Code::Refused));
    let mut reserving = Box::pin(call("reserve green", 1));
    let seen = async {
        while daemon.ask("status").await.field("sites").expect("sites")[0]["slots"]["green"]["reserved"].is_null() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        reply = &mut reserving => panic!("{reply:?}"),
        () = seen => {}
    }
    for line in ["reserve green", "switch green", "drain green --undo"] {
        let reply = call(line, 2).await;
        assert_eq!(reply.code(), Some(Code::Busy), "{line}: {reply:?}");
        assert!(
            reply
                .error()
                .expect("error")
                .contains("green of mana.so is reserved by deployer")
        );
    }
    assert!(call("drain green", 2).await.ok());
    assert!(call("switch green --force", 2).await.ok());
    assert!(call("switch blue", 2).await.ok());
    assert!(call("switch green", 1).await.ok(), "its own holder may");
    assert!(call("switch blue", 2).await.ok());
    drop(reserving);
    let free = async {
        while !call("switch green", 2).await.ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), free)
        .await
        .expect("free again");
    daemon.stop().await;
}

#[tokio::test]
async fn a_note_is_a_line_of_the_journal_and_changes_nothing() {
    let daemon = Daemon::start(&nowhere()).await;
    let before = daemon.site().generation;
    assert!(daemon.ask("note \"restarted the database\"").await.ok());
    let history = daemon.ask("history 1").await;
    let entry = &history.field("entries").expect("entries")[0];
    assert_eq!(
        (&entry["verb"], &entry["note"], &entry["outcome"]),
        (
            &"note".into(),
            &"restarted the database".into(),
            &"noted".into()
        )
    );
    assert_eq!(daemon.site().generation, before);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_and_a_resume_lets_go() {
    let daemon = Daemon::start(&nowhere()).await;
    assert!(daemon.ask("pause").await.ok());
    let Mode::Paused(hold) = daemon.site().mode.clone() else {
        panic!("paused");
    };
    let waiter = tokio::spawn(async move { hold.wait().await });
    tokio::task::yield_now().await;
    let again = daemon.ask("pause").await;
    assert_eq!(
        (number(&again, "waiting"), again.field("changed")),
        (1, Some(&false.into()))
    );
    assert!(daemon.ask("resume").await.ok());
    assert_eq!(
        waiter.await.expect("waiter"),
        crate::hold::HoldOutcome::Released
    );
    assert!(matches!(daemon.site().mode, Mode::Serving));
    // Maintenance ends a pause too: those who wait are turned away rather than kept.
    assert!(daemon.ask("pause").await.ok());
    let Mode::Paused(hold) = daemon.site().mode.clone() else {
        panic!("paused");
    };
    assert!(daemon.ask("maintenance on").await.ok());
    assert_eq!(hold.wait().await, crate::hold::HoldOutcome::Released);
    assert_eq!(daemon.ask("pause").await.code(), Some(Code::Refused));
    assert!(daemon.ask("maintenance off").await.ok());
    daemon.stop().await;
}

struct Configuration {
    sites: Mutex<Result<Vec<SiteSettings>, String>>,
    is_committed: Arc<AtomicBool>,
}

impl Reloader for Configuration {
    fn prepare(&self) -> Result<Prepared, String> {
        let is_committed = Arc::clone(&self.is_committed);
        Ok(Prepared {
            is_changed_beside: false,
            sites: self.sites.lock().expect("sites").clone()?,
            needs_restart: vec!["listen.https".to_owned()],
            commit: Box::new(move || is_committed.store(true, Ordering::Release)),
        })
    }
}

#[tokio::test]
async fn a_reload_changes_all_or_nothing() {
    let is_committed = Arc::new(AtomicBool::new(false));
    let configuration = Arc::new(Configuration {
        sites: Mutex::new(Err("sites.0.host: \"a b\" is not a host name".to_owned())),
        is_committed: Arc::clone(&is_committed),
    });
    let daemon = Daemon::start_with(&nowhere(), configuration.clone()).await;
    let reply = daemon.ask("reload").await;
    assert_eq!(reply.code(), Some(Code::Invalid));
    assert!(reply.error().expect("error").contains("sites.0.host"));
    *configuration.sites.lock().expect("sites") = Ok(Vec::new());
    assert_eq!(daemon.ask("reload").await.code(), Some(Code::Invalid));
    assert!(!is_committed.load(Ordering::Acquire));
    assert_eq!(
        daemon.running.published.load().sites().len(),
        1,
        "never an empty table"
    );

    *configuration.sites.lock().expect("sites") = Ok(nowhere().to_vec());
    let reply = daemon.ask("reload").await;
    assert_eq!(
        (reply.field("changed"), number(&reply, "generation")),
        (Some(&false.into()), 1)
    );
    assert!(is_committed.load(Ordering::Acquire));
    let inside = daemon.enter(Slot::Green);
    *configuration.sites.lock().expect("sites") =
        Ok(vec![settings("mana.so", "127.0.0.1:1", "127.0.0.1:9")]);
    let reply = daemon.ask("reload").await;
    assert_eq!(
        (reply.field("changed"), number(&reply, "generation")),
        (Some(&true.into()), 2)
    );
    assert_eq!(
        reply.field("needs_restart"),
        Some(&Value::from(vec!["listen.https"]))
    );
    // The request in the upstream that is gone still counts for its slot.
    let status = daemon.ask("status").await;
    assert_eq!(
        status.field("sites").expect("sites")[0]["slots"]["green"]["in_flight"],
        1
    );
    drop(inside);
    daemon.stop().await;
}

/// A disk that does not answer until the other end is dropped.
struct Hanging(Mutex<std::sync::mpsc::Receiver<()>>);

impl Reloader for Hanging {
    fn prepare(&self) -> Result<Prepared, String> {
        self.0.lock().expect("receiver").recv().ok();
        Err("too late".to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_hangs_holds_cutovers_up_for_a_while_only() {
    let (release, hanging) = std::sync::mpsc::channel();
    let daemon = Daemon::start_with(&nowhere(), Arc::new(Hanging(Mutex::new(hanging)))).await;
    let reload = tokio::spawn(daemon.ask("reload"));
    tokio::task::yield_now().await;
    let reply = daemon.ask("switch green --force").await;
    assert_eq!(reply.code(), Some(Code::Busy));
    assert!(
        reply
            .error()
            .expect("error")
            .starts_with("a reload is being carried out by test")
    );
    tokio::time::advance(RELOAD_DEADLINE).await;
    let reply = reload.await.expect("reply");
    assert!(
        reply.error().expect("error").contains("longer than 30 s"),
        "{reply:?}"
    );
    drop(release);
    assert!(daemon.ask("switch green --force").await.ok());
    daemon.stop().await;
}

//! Putting and sending, to real receivers on this machine.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tokio::net::TcpSocket;
use tokio::sync::Notify;

use super::place::{ONCE, Place, QUICK, slack_at, statuses, to};
use super::receiver::{Receiver, Reply};
use super::render_tests::full;
use super::*;

#[tokio::test]
async fn messages_arrive_in_order_and_nothing_is_left() {
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(&destinations, &[Event::Started, Event::RolledBack]);
    let sent = place.send(&destinations, QUICK).await;
    assert_eq!((sent.delivered, sent.dropped, sent.left), (2, 0, 0));
    assert!(sent.troubles.is_empty() && !sent.is_elsewhere);
    assert_eq!(
        statuses(&receiver),
        [
            "Deployment to vm-1 started!",
            "Deployment to vm-1 was rolled back!"
        ]
    );
    let seen = &receiver.seen()[0];
    assert_eq!(seen.path, "/TOKENTOKEN");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert!(
        seen.headers["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("mana-proxy/")
    );
    assert!(seen.headers.get("webhook-id").is_none());
    assert_eq!(place.files(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn only_wanted_events_are_put() {
    let place = Place::new();
    let wanting = |on: &[Event]| Destination {
        on: on.to_vec(),
        ..to(Kind::Slack, "http://127.0.0.1:9/x")
    };
    let destinations = [
        wanting(&[Event::Failed]),
        wanting(&[Event::Failed, Event::Started]),
    ];
    let put = |event| put(&place.outbox(), &destinations, &full(event)).unwrap();
    assert_eq!(put(Event::Succeeded), 0);
    assert!(!place.outbox().exists());
    assert_eq!(put(Event::Started), 1);
    assert_eq!(put(Event::Failed), 2);
    assert_eq!(place.files().len(), 3);
}

#[tokio::test]
async fn two_senders_send_once() {
    let go = Arc::new(Notify::new());
    let receiver = Receiver::start(&[Reply::Held(Arc::clone(&go)), Reply::Status(200)]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(&destinations, &[Event::Started]);
    let other = async {
        receiver.has_seen(1).await;
        // What is put now is found by the one that works.
        place.put(&destinations, &[Event::Succeeded]);
        let sent = place.send(&destinations, QUICK).await;
        assert!(sent.is_elsewhere);
        assert_eq!(sent.delivered, 0);
        go.notify_one();
    };
    let (sent, ()) = tokio::join!(place.send(&destinations, QUICK), other);
    assert_eq!((sent.delivered, sent.left), (2, 0));
    assert_eq!(receiver.seen().len(), 2);
}

#[tokio::test]
async fn an_outbox_is_bounded_and_the_oldest_make_room() {
    let place = Place::new();
    let destinations = [to(Kind::Slack, "http://127.0.0.1:9/x")];
    place.put(&destinations, &[Event::Started]);
    let first = place.files().remove(0);
    let text = std::fs::read(&first).unwrap();
    for at in 0..OUTBOX_FILES_MAX {
        std::fs::write(first.with_file_name(format!("{at:020}-x.json")), &text).unwrap();
    }
    place.put(&destinations, &[Event::Failed]);
    let files = place.files();
    assert_eq!(files.len(), OUTBOX_FILES_MAX);
    assert!(files.contains(&first));
    let oldest = |at: usize| first.with_file_name(format!("{at:020}-x.json"));
    assert!(!files.contains(&oldest(0)) && !files.contains(&oldest(1)));
    assert!(files.contains(&oldest(2)));
}

#[tokio::test]
async fn what_can_never_be_sent_is_dropped() {
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    let dropped = async |expected: &str| {
        let sent = place.send(&destinations, QUICK).await;
        assert_eq!((sent.delivered, sent.dropped, sent.left), (0, 1, 0));
        let trouble = sent.troubles[0].to_string();
        assert!(trouble.contains(expected), "{trouble}");
        assert_eq!(place.files(), [] as [PathBuf; 0]);
    };
    place.put(&destinations, &[Event::Started]);
    place.change(|letter| letter.put_ms -= millis(MESSAGE_AGE_MAX) + 1);
    dropped("deploy 17 started is dropped: it could not be sent for 24 h").await;
    place.put(&destinations, &[Event::Started]);
    place.change(|letter| letter.to = "another".to_owned());
    dropped("its destination is not in the configuration any more").await;
    place.put(&destinations, &[Event::Started]);
    std::fs::write(place.files().remove(0), "{").unwrap();
    dropped(".json is no message and is dropped").await;
    assert!(receiver.seen().is_empty());
}

#[tokio::test]
async fn messages_wait_for_a_file_that_cannot_be_read() {
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    let place = Place::new();
    let path = place.dir.path().join("message.url");
    let url = format!("http://{}/x", receiver.address);
    std::fs::write(&path, &url).unwrap();
    let destinations = [Destination {
        url: Source::File(path.clone()),
        ..slack_at(&receiver)
    }];
    place.put(&destinations, &[Event::Started]);
    std::fs::remove_file(&path).unwrap();
    let sent = place.send(&destinations, QUICK).await;
    assert_eq!((sent.delivered, sent.dropped, sent.left), (0, 0, 1));
    assert!(sent.troubles[0].to_string().contains("message.url"));
    let error = put(&place.outbox(), &destinations, &full(Event::Failed)).unwrap_err();
    assert!(error.to_string().contains("message.url"), "{error}");
    std::fs::write(&path, &url).unwrap();
    assert_eq!(place.send(&destinations, QUICK).await.delivered, 1);
}

#[tokio::test]
async fn one_destination_that_is_broken_does_not_keep_the_others_from_being_put() {
    let place = Place::new();
    let broken = Destination {
        url: Source::File(place.dir.path().join("none.url")),
        ..to(Kind::Discord, "")
    };
    let destinations = [broken, to(Kind::Slack, "http://127.0.0.1:9/x")];
    assert!(put(&place.outbox(), &destinations, &full(Event::Started)).is_err());
    assert_eq!(waiting(&place.outbox()).unwrap().len(), 1);
}

#[tokio::test]
async fn no_file_and_no_text_has_a_url_or_a_secret() {
    let echo = r#"{"message": "no webhook /TOKENTOKEN here"}"#;
    let receiver = Receiver::start(&[
        Reply::With(404, &[], echo.to_owned()),
        Reply::With(429, &[("retry-after", "3000")], echo.to_owned()),
    ])
    .await;
    let nobody = TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let place = Place::new();
    let secret = Some(Source::Inline(Secret::new("SECRETSECRETSECRET")));
    let refused = format!("http://{}/TOKENTOKEN", nobody.local_addr().unwrap());
    let destinations = [
        slack_at(&receiver),
        Destination {
            kind: Kind::Webhook,
            secret,
            ..to(Kind::Webhook, &refused)
        },
    ];
    place.put(&destinations, &[Event::Started, Event::Failed]);
    let sent = place.send(&destinations, ONCE).await;
    assert_eq!((sent.dropped, sent.left), (1, 3));
    let mut texts = vec![format!("{sent:?} {destinations:?}")];
    texts.extend(sent.troubles.iter().map(ToString::to_string));
    texts.extend(
        place
            .files()
            .iter()
            .map(|file| std::fs::read_to_string(file).unwrap()),
    );
    texts.push(format!("{:?}", waiting(&place.outbox()).unwrap()));
    assert_eq!(texts.len(), 1 + 3 + 3 + 1);
    for text in texts {
        let is_shown = ["TOKENTOKEN", "SECRETSECRET", "U0VDUkVU"]
            .iter()
            .any(|s| text.contains(s));
        assert!(!is_shown, "{text}");
    }
}

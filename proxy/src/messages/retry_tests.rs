//! What is sent again, and what is not, with real receivers on this machine.

#![allow(clippy::unwrap_used)]

use tokio::net::TcpSocket;

use super::place::{ONCE, Place, QUICK, slack_at, to};
use super::receiver::{Receiver, Reply};
use super::*;

#[tokio::test]
async fn an_error_of_the_destination_is_tried_again_under_the_same_id() {
    let receiver =
        Receiver::start(&[Reply::Status(500), Reply::Status(503), Reply::Status(200)]).await;
    let place = Place::new();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let destinations = [Destination {
        kind: Kind::Webhook,
        secret: Some(Source::Inline(Secret::new(secret))),
        ..slack_at(&receiver)
    }];
    place.put(&destinations, &[Event::Started, Event::Succeeded]);
    let sent = place.send(&destinations, QUICK).await;
    assert_eq!((sent.delivered, sent.left), (2, 0));
    let seen = receiver.seen();
    assert_eq!(seen.len(), 4);
    let header = |at: usize, name: &str| seen[at].headers[name].to_str().unwrap().to_owned();
    assert_eq!(header(0, "webhook-id"), header(2, "webhook-id"));
    assert_ne!(header(0, "webhook-id"), header(3, "webhook-id"));
    assert_eq!(seen[0].body, seen[2].body);
    // As a receiver would check it, with another implementation of base64 and of the key.
    let key = [
        49, 242, 144, 246, 191, 6, 41, 138, 171, 79, 8, 212, 60, 63, 8, 44, 246, 72, 163, 98, 218,
        45, 164, 176,
    ];
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    for (at, seen) in seen.iter().enumerate() {
        let signed = format!(
            "{}.{}.{}",
            header(at, "webhook-id"),
            header(at, "webhook-timestamp"),
            seen.body
        );
        let signature = header(at, "webhook-signature");
        let tag = decode(signature.strip_prefix("v1,").unwrap());
        aws_lc_rs::hmac::verify(&key, signed.as_bytes(), &tag).unwrap();
        let at: u64 = header(at, "webhook-timestamp").parse().unwrap();
        assert!(at <= unix_ms() / 1000);
    }
}

fn decode(text: &str) -> Vec<u8> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = String::new();
    for c in text.trim_end_matches('=').chars() {
        bits.push_str(&format!("{:06b}", alphabet.find(c).unwrap()));
    }
    let (whole, _) = bits.as_bytes().as_chunks::<8>();
    let byte = |bits: &[u8; 8]| u8::from_str_radix(std::str::from_utf8(bits).unwrap(), 2).unwrap();
    whole.iter().map(byte).collect()
}

#[tokio::test]
async fn a_receiver_that_comes_up_later_gets_the_message() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/TOKENTOKEN", socket.local_addr().unwrap());
    let place = Place::new();
    let destinations = [to(Kind::Discord, &url)];
    place.put(&destinations, &[Event::Failed]);
    let up = async {
        // Bound, but not listening: connections are refused.
        let is_refused = |waiting: &[Waiting]| {
            let first = waiting.first();
            first.is_some_and(|first| first.attempts >= 2 && first.failure.is_some())
        };
        place.wait_until(is_refused).await;
        let failure = waiting(&place.outbox()).unwrap().remove(0).failure.unwrap();
        assert!(failure.contains("refused"), "{failure}");
        let listener = socket.listen(16).unwrap();
        let receiver = Receiver::start_on(listener, None, &[Reply::Status(204)]);
        receiver.has_seen(1).await;
        receiver
    };
    let (sent, receiver) = tokio::join!(place.send(&destinations, QUICK), up);
    assert_eq!((sent.delivered, sent.left), (1, 0));
    assert_eq!(receiver.seen().len(), 1);
}

#[tokio::test]
async fn a_destination_that_asks_for_a_long_wait_is_left_to_the_next_sender() {
    let limited = Reply::With(429, &[("retry-after", "3000")], String::new());
    let receiver = Receiver::start(&[limited, Reply::Status(200)]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(&destinations, &[Event::Started, Event::Failed]);
    for _ in 0..2 {
        let before_ms = unix_ms();
        let sent = place.send(&destinations, QUICK).await;
        assert_eq!((sent.delivered, sent.dropped, sent.left), (0, 0, 2));
        let trouble = sent.troubles[0].to_string();
        let expected = "slack at 127.0.0.1: deploy 17 started is not sent yet, after 1 attempts: answered 429 Too Many Requests";
        assert_eq!(trouble, expected);
        assert_eq!(receiver.seen().len(), 1);
        place.change(|letter| assert!(letter.not_before_ms > before_ms + 2_900_000));
    }
    place.change(|letter| letter.not_before_ms = 0);
    assert_eq!(place.send(&destinations, QUICK).await.delivered, 2);
}

#[tokio::test]
async fn a_short_wait_is_waited_for() {
    let body = r#"{"message":"You are being rate limited.","retry_after":0.02,"global":false}"#;
    let limited = Reply::With(429, &[], body.to_owned());
    let spent = [
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset-after", "0.02"),
    ]
    .as_slice();
    let receiver = Receiver::start(&[
        limited,
        Reply::With(204, spent, String::new()),
        Reply::Status(204),
    ])
    .await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(&destinations, &[Event::Started, Event::Failed]);
    let sent = place.send(&destinations, QUICK).await;
    assert_eq!((sent.delivered, sent.left), (2, 0));
    assert_eq!(receiver.seen().len(), 3);
}

#[tokio::test]
async fn a_destination_that_never_answers_is_asked_again() {
    let receiver = Receiver::start(&[Reply::Silence, Reply::Status(200)]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(&destinations, &[Event::Started]);
    let patience = Patience {
        request: Duration::from_millis(200),
        ..QUICK
    };
    let sent = place.send(&destinations, patience).await;
    assert_eq!((sent.delivered, sent.left), (1, 0));
    assert!(receiver.seen().len() >= 2);
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_now_stays() {
    let receiver = Receiver::start(&[Reply::Status(500)]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(&destinations, &[Event::Started]);
    let sent = place.send(&destinations, ONCE).await;
    assert_eq!((sent.delivered, sent.dropped, sent.left), (0, 0, 1));
    assert!(matches!(sent.troubles[..], [Trouble::Failing { .. }]));
    // The next sender says so again, and the journal would be full of it.
    assert!(!sent.troubles[0].is_final());
    assert_eq!(receiver.seen().len(), 1);
    assert_eq!(place.files().len(), 1);
}

#[tokio::test]
async fn nothing_is_begun_when_patience_is_over() {
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(&destinations, &[Event::Started]);
    let patience = Patience {
        total: Duration::ZERO,
        ..QUICK
    };
    let sent = place.send(&destinations, patience).await;
    assert_eq!((sent.delivered, sent.dropped, sent.left), (0, 0, 1));
    assert!(sent.troubles.is_empty() && receiver.seen().is_empty());
}

#[tokio::test]
async fn a_destination_that_is_spent_is_left_alone() {
    let spent = &[
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset-after", "3000"),
    ];
    let receiver = Receiver::start(&[Reply::With(204, spent, String::new())]).await;
    let other = Receiver::start(&[Reply::Status(204)]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver), slack_at(&other)];
    place.put(&destinations, &[Event::Started, Event::Failed]);
    let sent = place.send(&destinations, QUICK).await;
    assert_eq!((sent.delivered, sent.left), (3, 1));
    assert_eq!((receiver.seen().len(), other.seen().len()), (1, 2));
}

#[tokio::test]
async fn an_attempt_that_cannot_be_written_down_is_not_made() {
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(&destinations, &[Event::Started]);
    let file = place.files().remove(0);
    let name = file.file_name().unwrap().to_str().unwrap();
    // What is in the way of the temporary file stands for a full disk.
    let in_the_way = file.with_file_name(format!(".{name}.tmp"));
    std::fs::create_dir(&in_the_way).unwrap();
    let error = send(&place.outbox(), &destinations, QUICK)
        .await
        .unwrap_err();
    assert!(matches!(error, MessagesError::Write { .. }));
    assert!(error.to_string().contains(name), "{error}");
    assert!(receiver.seen().is_empty());
    std::fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(place.send(&destinations, QUICK).await.delivered, 1);
}

#[tokio::test]
async fn a_refused_message_is_dropped_and_the_next_one_sent() {
    let unknown = r#"{"message": "Unknown Webhook", "code": 10015}"#;
    let receiver = Receiver::start(&[
        Reply::With(404, &[], unknown.to_owned()),
        Reply::With(400, &[], "x".repeat(client::ANSWER_BYTES_MAX + 1)),
        Reply::Status(204),
    ])
    .await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(
        &destinations,
        &[Event::Started, Event::Succeeded, Event::Failed],
    );
    let sent = place.send(&destinations, QUICK).await;
    assert_eq!((sent.delivered, sent.dropped, sent.left), (1, 2, 0));
    assert!(sent.troubles.iter().all(Trouble::is_final));
    let troubles: Vec<String> = sent.troubles.iter().map(ToString::to_string).collect();
    assert_eq!(
        troubles,
        [
            "slack at 127.0.0.1: deploy 17 started is dropped: refused with 404 Not Found (Unknown Webhook); check the URL in [[deploy.message]]",
            "slack at 127.0.0.1: deploy 17 succeeded is dropped: refused with 400 Bad Request; check the URL in [[deploy.message]]",
        ]
    );
    assert_eq!(receiver.seen().len(), 3);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::start(&[Reply::Status(200)]).await;
    let location: &'static str = format!("http://{}/", elsewhere.address).leak();
    let headers: &'static [(&str, &str)] = vec![("location", location)].leak();
    let receiver = Receiver::start(&[Reply::With(307, headers, String::new())]).await;
    let place = Place::new();
    let destinations = [slack_at(&receiver)];
    place.put(&destinations, &[Event::Started]);
    let sent = place.send(&destinations, QUICK).await;
    assert_eq!((sent.delivered, sent.dropped), (0, 1));
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_sender_that_is_killed_leaves_the_message_to_the_next() {
    let receiver = Receiver::start(&[Reply::Silence, Reply::Status(200)]).await;
    let place = Place::new();
    let destinations = [to(Kind::Discord, &format!("http://{}/x", receiver.address))];
    place.put(&destinations, &[Event::Started]);
    let (outbox, to) = (place.outbox(), destinations.to_vec());
    let sender = tokio::spawn(async move { send(&outbox, &to, QUICK).await });
    receiver.has_seen(1).await;
    sender.abort();
    assert!(sender.await.unwrap_err().is_cancelled());
    assert_eq!(waiting(&place.outbox()).unwrap()[0].attempts, 1);
    let sent = place.send(&destinations, QUICK).await;
    assert_eq!((sent.delivered, sent.left), (1, 0));
    let bodies: Vec<String> = receiver.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies[0], bodies[1]);
}

#[tokio::test]
async fn a_destination_that_is_down_delays_no_other() {
    let down = Receiver::start(&[Reply::Silence]).await;
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    let place = Place::new();
    let destinations = [slack_at(&down), slack_at(&receiver)];
    place.put(&destinations, &[Event::Started, Event::Succeeded]);
    tokio::select! {
        _ = place.send(&destinations, QUICK) => panic!("it gave up on one"),
        _ = receiver.has_seen(2) => {}
    }
    assert_eq!(down.seen().len(), 1);
}

//! What messages look like.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};

use super::text::units;
use super::*;

/// A deploy of which everything is known.
pub(super) fn full(event: Event) -> Message {
    let text = |text: &str| Some(text.to_owned());
    Message {
        event,
        deploy: 17,
        site: "mana.so".to_owned(),
        server: "vm-1".to_owned(),
        image: "registry.example/app:41".to_owned(),
        from: Some(Slot::Blue),
        to: Some(Slot::Green),
        repository: text("https://github.com/mana-so/client_app"),
        commit: text("4f2a9c1"),
        branch: text("feature/new_things"),
        author: text("Ada <ada@mana.so>"),
        note: text("the *big* one"),
        reason: text("the gate was not passed: 0 of 3 probes"),
        hint: text("look at the log & try again"),
        who: "ci".to_owned(),
        time: "2026-11-22T09:13:21Z".to_owned(),
        took: Some(Duration::from_millis(81_250)),
        last_log: vec!["starting\n".to_owned(), "```\u{1b}[31m<boom>\n".to_owned()],
    }
}

/// A deploy of which only what must be known is.
fn bare(event: Event) -> Message {
    Message {
        from: None,
        to: None,
        repository: None,
        commit: None,
        branch: None,
        author: None,
        note: None,
        reason: None,
        hint: None,
        took: None,
        last_log: Vec::new(),
        ..full(event)
    }
}

/// A deploy whose texts are as long as anything may be, and all made of this.
fn longest(piece: &str) -> Message {
    let long = piece.repeat(2000);
    let some = || Some(long.clone());
    Message {
        site: long.clone(),
        server: long.clone(),
        image: long.clone(),
        repository: some(),
        commit: some(),
        branch: some(),
        author: some(),
        note: some(),
        reason: some(),
        hint: some(),
        who: long.clone(),
        time: long.clone(),
        last_log: vec![long.clone(); 50],
        deploy: u64::MAX,
        took: Some(Duration::MAX),
        ..full(Event::RolledBack)
    }
}

/// Pieces that are made longer, or are longer in some way of counting.
const PIECES: [&str; 8] = ["x", "*", "`", "<", "&", "\"", "👍", "\\"];

#[test]
fn discord_gets_one_embed() {
    let expected = json!({
        "username": "mana-proxy",
        "content": "Deployment to vm-1 failed!",
        "allowed_mentions": { "parse": [] },
        "embeds": [{
            "title": "Deployment Status",
            "color": 16711680,
            "description": "```\nstarting\n`\u{200b}`\u{200b}`\u{200b}<boom>\n```",
            "fields": [
                { "name": "Repository", "value": "https://github.com/mana-so/client_app", "inline": true },
                { "name": "Commit", "value": "4f2a9c1", "inline": true },
                { "name": "Branch", "value": "feature/new\\_things", "inline": true },
                { "name": "Author", "value": "Ada \\<ada\\@mana.so\\>", "inline": true },
                { "name": "Status", "value": "failed", "inline": true },
                { "name": "Site", "value": "mana.so", "inline": true },
                { "name": "Slot", "value": "blue → green", "inline": true },
                { "name": "Took", "value": "81.2 s", "inline": true },
                { "name": "Image", "value": "registry.example/app:41", "inline": false },
                { "name": "Note", "value": "the \\*big\\* one", "inline": false },
                { "name": "Reason", "value": "the gate was not passed: 0 of 3 probes", "inline": false },
                { "name": "What to do", "value": "look at the log & try again", "inline": false },
            ],
            "footer": { "text": "deploy 17 by ci, 2026-11-22T09:13:21Z" },
        }],
    });
    assert_eq!(discord::render(&full(Event::Failed)), expected);
}

#[test]
fn slack_gets_an_attachment_with_a_fallback() {
    let message = Message {
        took: None,
        note: None,
        ..full(Event::Succeeded)
    };
    let expected = json!({
        "text": "Deployment to vm-1 succeeded!",
        "mrkdwn": false,
        "attachments": [{
            "fallback": "Deployment to vm-1 succeeded!",
            "color": "#00ff00",
            "title": "Deployment Status",
            "text": "```\nstarting\n`\u{200b}`\u{200b}`\u{200b}&lt;boom&gt;\n```",
            "mrkdwn_in": ["text"],
            "fields": [
                { "title": "Repository", "value": "https://github.com/mana-so/client_app", "short": true },
                { "title": "Commit", "value": "4f2a9c1", "short": true },
                { "title": "Branch", "value": "feature/new_things", "short": true },
                { "title": "Author", "value": "Ada &lt;ada@mana.so&gt;", "short": true },
                { "title": "Status", "value": "succeeded", "short": true },
                { "title": "Site", "value": "mana.so", "short": true },
                { "title": "Slot", "value": "blue → green", "short": true },
                { "title": "Image", "value": "registry.example/app:41", "short": false },
                { "title": "Reason", "value": "the gate was not passed: 0 of 3 probes", "short": false },
                { "title": "What to do", "value": "look at the log &amp; try again", "short": false },
            ],
            "footer": "deploy 17 by ci, 2026-11-22T09:13:21Z",
        }],
    });
    assert_eq!(slack::render(&message), expected);
}

#[test]
fn a_webhook_always_has_every_key() {
    let expected = json!({
        "type": "deploy.rolled_back",
        "timestamp": "2026-11-22T09:13:21Z",
        "data": {
            "deploy": 17,
            "site": "mana.so",
            "server": "vm-1",
            "image": "registry.example/app:41",
            "from": "blue",
            "to": "green",
            "repository": "https://github.com/mana-so/client_app",
            "commit": "4f2a9c1",
            "branch": "feature/new_things",
            "author": "Ada <ada@mana.so>",
            "note": "the *big* one",
            "reason": "the gate was not passed: 0 of 3 probes",
            "hint": "look at the log & try again",
            "who": "ci",
            "took_ms": 81250,
            "last_log": ["starting", "```<boom>"],
        },
    });
    let rendered = webhook::render(&full(Event::RolledBack));
    assert_eq!(rendered, expected);
    let bare = webhook::render(&bare(Event::Started));
    let keys = |value: &Value| -> Vec<String> {
        value["data"].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&bare), keys(&rendered));
    assert_eq!(bare["data"]["reason"], Value::Null);
    assert_eq!(bare["data"]["took_ms"], Value::Null);
}

#[test]
fn each_event_has_its_words_and_colour() {
    for (event, headline, colour, kind) in [
        (
            Event::Started,
            "Deployment to vm-1 started!",
            3_447_003,
            "deploy.started",
        ),
        (
            Event::Succeeded,
            "Deployment to vm-1 succeeded!",
            65_280,
            "deploy.succeeded",
        ),
        (
            Event::Failed,
            "Deployment to vm-1 failed!",
            16_711_680,
            "deploy.failed",
        ),
        (
            Event::RolledBack,
            "Deployment to vm-1 was rolled back!",
            16_753_920,
            "deploy.rolled_back",
        ),
    ] {
        let message = bare(event);
        let discord = discord::render(&message);
        assert_eq!(discord["content"], headline);
        assert_eq!(discord["embeds"][0]["color"], colour);
        let slack = slack::render(&message);
        assert_eq!(slack["text"], headline);
        assert_eq!(slack["attachments"][0]["color"], format!("#{colour:06x}"));
        assert_eq!(webhook::render(&message)["type"], kind);
    }
}

#[test]
fn what_is_not_known_is_left_out() {
    let message = Message {
        note: Some(" \n\u{202e}".to_owned()),
        ..bare(Event::Started)
    };
    let discord = discord::render(&message);
    let names: Vec<&Value> = discord["embeds"][0]["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| &field["name"])
        .collect();
    assert_eq!(names, ["Status", "Site", "Image"]);
    assert!(discord["embeds"][0].get("description").is_none());
    assert!(
        slack::render(&message)["attachments"][0]
            .get("text")
            .is_none()
    );
}

#[test]
fn no_text_is_markup_in_discord() {
    for (text, shown) in [
        ("@everyone", "\\@everyone"),
        ("<@&1> <#2>", "\\<\\@&1\\> \\<\\#2\\>"),
        (
            "[click](https://evil.example)",
            "\\[click\\](https://evil.example)",
        ),
        ("a\n# big", "a \\# big"),
        (
            "**b** _i_ ~~s~~ ||t|| `c`",
            "\\*\\*b\\*\\* \\_i\\_ \\~\\~s\\~\\~ \\|\\|t\\|\\| \\`c\\`",
        ),
        ("\\*", "\\\\\\*"),
        ("https://a.so/x_y", "https://a.so/x_y"),
        ("https://a.so/ @here", "https://a.so/ \\@here"),
        ("https://a.so/](x", "https://a.so/\\](x"),
    ] {
        let message = Message {
            branch: Some(text.to_owned()),
            ..bare(Event::Started)
        };
        let rendered = discord::render(&message);
        assert_eq!(rendered["embeds"][0]["fields"][0]["value"], shown, "{text}");
        assert_eq!(rendered["allowed_mentions"], json!({ "parse": [] }));
    }
    let server = Message {
        server: "@everyone".to_owned(),
        ..bare(Event::Started)
    };
    assert_eq!(
        discord::render(&server)["content"],
        "Deployment to \\@everyone started!"
    );
}

#[test]
fn no_text_is_markup_in_slack() {
    let message = Message {
        server: "<!channel>".to_owned(),
        who: "<@U1>".to_owned(),
        branch: Some("<https://evil.example|ok> & more".to_owned()),
        ..bare(Event::Started)
    };
    let rendered = slack::render(&message).to_string();
    assert!(!rendered.contains(['<', '>']), "{rendered}");
    assert!(
        rendered.contains("&lt;https://evil.example|ok&gt; &amp; more"),
        "{rendered}"
    );
}

#[test]
fn the_longest_message_is_within_the_limits_of_discord() {
    for piece in PIECES {
        let rendered = discord::render(&longest(piece));
        let embed = &rendered["embeds"][0];
        let length = |value: &Value| units(value.as_str().unwrap());
        assert!(length(&rendered["content"]) <= 2000);
        assert!(length(&rendered["username"]) <= 80);
        assert!(length(&embed["description"]) <= 4096);
        assert!(length(&embed["footer"]["text"]) <= 2048);
        let fields = embed["fields"].as_array().unwrap();
        assert_eq!(fields.len(), 12);
        let mut total = length(&embed["title"]) + length(&embed["description"]);
        total += length(&embed["footer"]["text"]);
        for field in fields {
            assert!((1..=256).contains(&length(&field["name"])));
            assert!((1..=1024).contains(&length(&field["value"])), "{field}");
            total += length(&field["name"]) + length(&field["value"]);
        }
        assert!(total <= discord::EMBED_UNITS_MAX, "{piece}: {total}");
    }
}

#[test]
fn the_longest_message_fits_into_a_file_of_the_outbox() {
    for piece in PIECES {
        for kind in Kind::ALL {
            let body = render(kind, &longest(piece)).to_string();
            let quoted = serde_json::to_string(&body).unwrap();
            let limit = usize::try_from(outbox::FILE_BYTES_MAX).unwrap();
            assert!(quoted.len() < limit / 2, "{kind} {piece}: {}", quoted.len());
        }
    }
}

/// The example that the libraries of Standard Webhooks are tested with.
#[test]
fn a_signature_is_that_of_standard_webhooks() {
    let destination = Destination {
        kind: Kind::Webhook,
        url: Source::Inline(Secret::new("https://a.so/")),
        secret: Some(Source::Inline(Secret::new(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ))),
        on: Event::ALL.to_vec(),
        ca_root: None,
    };
    let key = destination.key().unwrap().unwrap();
    let signature = webhook::signature(
        key.bytes(),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        r#"{"test": 2432232314}"#,
    );
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

//! Where messages may go, and that neither URL nor secret is ever shown.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::destination::{Address, SigningKey};
use super::*;

fn url(text: &str) -> Destination {
    Destination {
        kind: Kind::Slack,
        url: Source::Inline(Secret::new(text)),
        secret: None,
        on: Event::ALL.to_vec(),
        ca_root: None,
    }
}

fn address(text: &str) -> Address {
    url(text).address().unwrap()
}

#[test]
fn plain_http_is_for_this_machine_alone() {
    for (text, fault) in [
        ("https://discord.com/api/webhooks/1/x", None),
        ("https://hooks.example:8443/a?b=c", None),
        ("http://127.0.0.1:8080/hook", None),
        ("http://127.9.9.9/", None),
        ("http://[::1]:8080/", None),
        ("http://[::ffff:127.0.0.1]/", None),
        ("http://LocalHost/x", None),
        ("  https://hooks.example/x \n", None),
        ("http://hooks.example/", Some(UrlFault::Plain)),
        ("http://127.0.0.1.evil.example/", Some(UrlFault::Plain)),
        ("http://localhost.evil.example/", Some(UrlFault::Plain)),
        ("http://10.0.0.1/", Some(UrlFault::Plain)),
        ("http://0.0.0.0/", Some(UrlFault::Plain)),
        ("http://127.0.0.1@evil.example/", Some(UrlFault::UserInfo)),
        (
            "https://user:password@hooks.example/",
            Some(UrlFault::UserInfo),
        ),
        ("ftp://hooks.example/", Some(UrlFault::NoUrl)),
        ("hooks.example/x", Some(UrlFault::NoUrl)),
        ("/x", Some(UrlFault::NoUrl)),
        ("https:///x", Some(UrlFault::NoUrl)),
        ("https://a b/", Some(UrlFault::NoUrl)),
        ("", Some(UrlFault::NoUrl)),
    ] {
        assert_eq!(Secret::new(text).check_url().err(), fault, "{text}");
    }
    let long = format!("https://hooks.example/{}", "x".repeat(2048));
    assert_eq!(Secret::new(long).check_url(), Err(UrlFault::NoUrl));
}

#[test]
fn a_secret_is_base64_or_any_text_of_some_length() {
    let key = |text: &str| {
        let destination = Destination {
            kind: Kind::Webhook,
            secret: Some(Source::Inline(Secret::new(text))),
            ..url("https://a.so/")
        };
        let key: Result<Option<SigningKey>, _> = destination.key();
        key.map(|key| key.unwrap().bytes().to_vec())
    };
    let sixteen = "0123456789abcdef";
    assert_eq!(key(sixteen).unwrap(), sixteen.as_bytes());
    assert_eq!(
        key("whsec_MDEyMzQ1Njc4OWFiY2RlZg==").unwrap(),
        sixteen.as_bytes()
    );
    for (text, fault) in [
        ("whsec_0123456789abcde_", SecretFault::NoBase64),
        ("whsec_", SecretFault::Length),
        ("whsec_MDEyMw==", SecretFault::Length),
        ("0123456789abcde", SecretFault::Length),
        ("", SecretFault::Length),
    ] {
        assert_eq!(Secret::new(text).check_secret(), Err(fault), "{text}");
        assert!(key(text).is_err());
    }
    let long = "x".repeat(513);
    assert_eq!(Secret::new(long).check_secret(), Err(SecretFault::Length));
}

#[test]
fn a_file_holds_the_url_in_its_first_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("message.url");
    let destination = Destination {
        url: Source::File(path.clone()),
        ..url("")
    };
    let error = destination.address().unwrap_err();
    assert!(matches!(error, DestinationError::Unreadable { .. }));
    let found = check(&[url("http://127.0.0.1/"), destination.clone()]);
    assert!(matches!(found[..], [EndpointError::Destination(_)]));
    assert!(error.to_string().contains("message.url"), "{error}");
    for (content, host) in [
        ("https://a.so/x\n", Some("a.so")),
        (" https://a.so/x \r\n# mine\n", Some("a.so")),
        ("", None),
        ("\nhttps://a.so/x", None),
    ] {
        std::fs::write(&path, content).unwrap();
        let read = destination.address().ok();
        assert_eq!(read.as_ref().map(Address::host), host, "{content:?}");
    }
}

#[test]
fn a_fingerprint_is_that_of_kind_and_url() {
    let mark = address("https://a.so/x").fingerprint(Kind::Slack);
    assert_eq!(mark.len(), 32);
    assert_eq!(mark, address("https://a.so/x").fingerprint(Kind::Slack));
    assert_ne!(mark, address("https://a.so/x").fingerprint(Kind::Webhook));
    assert_ne!(mark, address("https://a.so/y").fingerprint(Kind::Slack));
}

#[test]
fn parts_of_a_url_that_could_be_secret_are_recognized() {
    let address = address("https://discord.com/api/webhooks/123456789/to_ken-to_ken?key=abcdefgh");
    for (text, is_told) in [
        ("no webhook 123456789 here", true),
        ("POST /api/webhooks/1/to_ken-to_ken failed", true),
        ("abcdefgh", true),
        ("api of discord.com says no", false),
        ("", false),
    ] {
        assert_eq!(address.is_told_by(text), is_told, "{text}");
    }
}

#[test]
fn no_text_shows_a_url_or_a_secret() {
    let token = "https://hooks.example/TOKENTOKEN";
    let secret = "SECRETSECRETSECRET";
    let path = Some(PathBuf::from("a.url"));
    let destination = Destination {
        secret: Some(Source::Inline(Secret::new(secret))),
        ..url(token)
    };
    let errors = [
        url("http://TOKENTOKEN/").address().unwrap_err(),
        url("https://TOKENTOKEN@a.so/").address().unwrap_err(),
        DestinationError::Secret {
            kind: Kind::Webhook,
            path,
            source: Secret::new("whsec_TOKENTOKEN_").check_secret().unwrap_err(),
        },
    ];
    let mut texts = vec![
        format!("{destination:?}"),
        format!("{:?}", destination.address().unwrap()),
        format!("{:?}", destination.key().unwrap()),
        format!(
            "{:?}",
            client::Endpoint::open(&url("http://127.0.0.1/TOKENTOKEN")).unwrap()
        ),
    ];
    texts.extend(errors.iter().map(|error| format!("{error:?}")));
    texts.extend(errors.iter().map(|e| crate::error_text::with_sources(e)));
    for text in texts {
        let is_shown = text.contains("TOKENTOKEN") || text.contains("SECRETSECRET");
        assert!(!is_shown, "{text}");
    }
}

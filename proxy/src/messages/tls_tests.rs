//! Sending over TLS: who is trusted.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::place::{ONCE, QUICK, to};
use super::receiver::{Receiver, Reply};
use super::render_tests::full;
use super::*;

/// A receiver with a certificate of its own for `localhost`, and the file that has it.
async fn start(dir: &Path, name: &str) -> (Receiver, PathBuf) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = dir.join(name);
    std::fs::write(&path, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let receiver = Receiver::start_on(listener, Some(tls), &[Reply::Status(204)]);
    (receiver, path)
}

fn trusting(receiver: &Receiver, host: &str, root: PathBuf) -> Destination {
    let url = format!("https://{host}:{}/TOKENTOKEN", receiver.address.port());
    Destination {
        ca_root: Some(root),
        ..to(Kind::Discord, &url)
    }
}

#[tokio::test]
async fn a_private_root_is_trusted_where_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (receiver, root) = start(dir.path(), "a.pem").await;
    let destinations = [trusting(&receiver, "localhost", root)];
    let outbox = dir.path().join("outbox");
    put(&outbox, &destinations, &full(Event::Succeeded)).unwrap();
    let sent = send(&outbox, &destinations, QUICK).await.unwrap();
    assert_eq!((sent.delivered, sent.left), (1, 0));
    assert_eq!(receiver.seen()[0].path, "/TOKENTOKEN");
}

#[tokio::test]
async fn nothing_is_said_to_whoever_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (receiver, root) = start(dir.path(), "a.pem").await;
    let (_, other) = start(dir.path(), "b.pem").await;
    let outbox = dir.path().join("outbox");
    // An unknown issuer, and a name that the certificate does not have.
    let untrusted = [
        trusting(&receiver, "localhost", other),
        trusting(&receiver, "127.0.0.1", root),
    ];
    put(&outbox, &untrusted, &full(Event::Succeeded)).unwrap();
    let sent = send(&outbox, &untrusted, ONCE).await.unwrap();
    assert_eq!((sent.delivered, sent.left), (0, 2));
    for trouble in &sent.troubles {
        let text = trouble.to_string();
        assert!(text.contains("certificate"), "{text}");
        assert!(!text.contains("TOKENTOKEN"), "{text}");
    }
    assert_eq!(sent.troubles.len(), 2);
    assert!(receiver.seen().is_empty());
}

#[tokio::test]
async fn a_root_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (receiver, _) = start(dir.path(), "a.pem").await;
    let destinations = [trusting(
        &receiver,
        "localhost",
        dir.path().join("none.pem"),
    )];
    let outbox = dir.path().join("outbox");
    put(&outbox, &destinations, &full(Event::Succeeded)).unwrap();
    let sent = send(&outbox, &destinations, QUICK).await.unwrap();
    assert_eq!((sent.delivered, sent.dropped, sent.left), (0, 0, 1));
    let text = sent.troubles[0].to_string();
    assert_eq!(check(&destinations).len(), 1);
    assert!(
        text.contains("none.pem") && text.contains("localhost"),
        "{text}"
    );
}

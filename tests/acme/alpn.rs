//! TLS-ALPN-01: answered inside the handshake, and noticed by nobody else.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::ca::Knobs;
use crate::double::Part;
use crate::scene::Backstage;
use crate::support::client::tls::{Offer, agreed, connect};
use crate::support::load::Load;
use crate::support::{ALIAS, H1, HOST, eventually};

const ALPN: &[u8] = b"acme-tls/1";

async fn with_alpn() -> Backstage {
    let mut backstage = Backstage::prepare(Knobs::default()).await;
    backstage
        .config
        .set("acme", "challenge", r#""tls-alpn-01""#);
    backstage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_by_tls_alpn_are_not_noticed_by_ordinary_clients() {
    let scene = with_alpn().await.start().await;
    scene.wait_until_issued().await;
    scene.trusting(ALIAS).await.unwrap();
    scene.proxy.wait_for_health("blue", true).await;
    let load = Load::requests(&scene.proxy);
    for _ in 0..5 {
        load.goes_on_for(20).await;
        scene.renew_now().await;
    }
    let tally = load.stop().await;
    tally.assert_unnoticed();
    assert_eq!(scene.orders(), 6);
    scene.assert_nothing_is_left().await;
}

/// A handshake as a CA does it: the certificate has an extension that no other client would let pass.
async fn validate(address: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Validator))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    connector.connect(name, stream).await
}

#[derive(Debug)]
struct Validator;

impl ServerCertVerifier for Validator {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_tls12_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[tokio::test]
async fn only_a_validating_client_sees_the_challenge_certificate() {
    let backstage = with_alpn().await;
    backstage.double.hold(Part::Challenge);
    let scene = backstage.start().await;
    eventually("a challenge", async || {
        scene.double.count(Part::Challenge) > 0
    })
    .await;
    let versions = rustls::ALL_VERSIONS;
    let offer = |alpn: &[&[u8]]| Offer::of(HOST, alpn, versions);
    let ordinary = scene.leaf().await;
    // One of the two is on offer; which one comes first is the CA's choice.
    let validating = match validate(scene.proxy.https(), HOST).await {
        Ok(stream) => stream,
        Err(_) => validate(scene.proxy.https(), ALIAS).await.unwrap(),
    };
    let seen = agreed(&validating);
    assert_eq!(seen.alpn.as_deref(), Some("acme-tls/1"));
    assert_ne!(seen.certificate, ordinary);
    assert!(
        H1::over(validating).closed().await.is_empty(),
        "it is closed at once"
    );
    for alpn in [&[b"h2", ALPN][..], &[ALPN, b"h2"], &[b"http/1.1"], &[]] {
        let stream = connect(scene.proxy.https(), &offer(alpn)).await.unwrap();
        let seen = agreed(&stream);
        assert_eq!(seen.certificate, ordinary, "{alpn:?}");
        assert_ne!(seen.alpn.as_deref(), Some("acme-tls/1"), "{alpn:?}");
    }
    // Other names have no challenge.
    let other = Offer::of("elsewhere.example", &[ALPN], versions);
    assert!(connect(scene.proxy.https(), &other).await.is_err());
    scene.double.release();
    scene.wait_until_issued().await;
    assert!(connect(scene.proxy.https(), &offer(&[ALPN])).await.is_err());
    scene.assert_nothing_is_left().await;
}

#[tokio::test]
async fn without_acme_there_is_no_acme_protocol() {
    let stage = crate::support::Stage::start().await;
    let offer = Offer::of(HOST, &[ALPN], rustls::ALL_VERSIONS);
    assert!(connect(stage.proxy.https(), &offer).await.is_err());
    // And the paths are the upstream's.
    let mut client = stage.h1().await;
    let answer = client.get("/.well-known/acme-challenge/x").await;
    assert_ne!(answer.header("x-request-id"), None);
    assert_eq!(stage.blue.requests(), 1);
}

//! Certificates from files: taken when they change, and only whole.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use crate::support::client::tls::{Offer, agreed, connect};
use crate::support::{H1, HOST, Stage, eventually};

/// A self-signed chain and its key.
fn pair(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (chain.pem(), key.serialize_pem())
}

/// Replaces a file as careful programs do.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}

async fn leaf(stage: &Stage) -> Vec<u8> {
    let stream = connect(stage.proxy.https(), &Offer::h1(HOST))
        .await
        .unwrap();
    agreed(&stream).certificate
}

#[tokio::test]
async fn a_changed_pair_is_served_live_and_a_pair_that_does_not_match_is_refused_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = (
        directory.path().join("chain.pem"),
        directory.path().join("key.pem"),
    );
    let names = [HOST, "www.mana.so"];
    let (first_chain, first_key) = pair(&names);
    std::fs::write(&chain, first_chain).unwrap();
    std::fs::write(&key, first_key).unwrap();
    let stage = Stage::with(|config| {
        let files = format!("{{ chain = {chain:?}, key = {key:?} }}");
        config.site().set("certificate", &files);
    })
    .await;
    let first = leaf(&stage).await;
    let mut open = stage.h1().await;
    assert_eq!(open.get("/").await.status, 200);

    // Half of the new pair: refused, said, counted; the old one is served.
    let (second_chain, second_key) = pair(&names);
    replace(&chain, &second_chain);
    let refused = r#"mana_proxy_certificate_files_refused_total{site="mana.so"} 1"#;
    eventually("the refusal", async || {
        stage.proxy.metrics().await.contains(refused)
    })
    .await;
    assert_eq!(leaf(&stage).await, first);
    assert!(
        stage
            .proxy
            .stderr()
            .contains("the new certificate is refused")
    );

    // The other half.
    replace(&key, &second_key);
    eventually("the second pair", async || leaf(&stage).await != first).await;
    let second = leaf(&stage).await;
    assert_eq!(open.get("/").await.status, 200, "it is untouched");

    // For other names, broken, gone: all refused.
    let (other_chain, other_key) = pair(&["elsewhere.example"]);
    replace(&key, &other_key);
    replace(&chain, &other_chain);
    eventually("the refusal", async || {
        stage.proxy.stderr().contains("does not cover mana.so")
            || stage.proxy.stderr().matches("is refused").count() >= 2
    })
    .await;
    std::fs::remove_file(&key).unwrap();
    replace(&chain, "garbage");
    eventually("the refusal", async || {
        stage.proxy.stderr().contains("has no certificate")
            || stage.proxy.stderr().contains("cannot read")
    })
    .await;
    assert_eq!(leaf(&stage).await, second);
    let mut client = H1::over(
        connect(stage.proxy.https(), &Offer::h1(HOST))
            .await
            .unwrap(),
    );
    assert_eq!(client.get("/").await.status, 200);
}

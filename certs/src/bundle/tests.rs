//! Each refusal of a bundle, and what is tolerated.

#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A root, an intermediate and a leaf for `mana.so` and `*.mana.so`.
struct Chain {
    root: String,
    intermediate: String,
    leaf: String,
    intermediate_key: String,
    leaf_key: String,
}

impl Chain {
    fn issue() -> Chain {
        let (root_params, root_key) = (authority("test root"), KeyPair::generate().unwrap());
        let root = root_params.self_signed(&root_key).unwrap().pem();
        let root_issuer = Issuer::new(root_params, root_key);

        let intermediate_params = authority("test intermediate");
        let intermediate_key = KeyPair::generate().unwrap();
        let intermediate_key_pem = intermediate_key.serialize_pem();
        let intermediate = intermediate_params
            .signed_by(&intermediate_key, &root_issuer)
            .unwrap();
        let intermediate_issuer = Issuer::new(intermediate_params, intermediate_key);

        let leaf_key = KeyPair::generate().unwrap();
        let leaf = leaf_params(&["mana.so", "*.mana.so"]);
        let leaf = leaf.signed_by(&leaf_key, &intermediate_issuer).unwrap();
        Chain {
            root,
            intermediate: intermediate.pem(),
            leaf: leaf.pem(),
            intermediate_key: intermediate_key_pem,
            leaf_key: leaf_key.serialize_pem(),
        }
    }

    fn full(&self) -> String {
        format!("{}{}", self.leaf, self.intermediate)
    }
}

fn authority(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

/// A leaf without a subject, as public authorities issue them.
fn leaf_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let now = OffsetDateTime::from(SystemTime::now());
    params.not_before = now - DAY;
    params.not_after = now + 10 * DAY;
    params
}

fn load(chain: &str, key: &str, hosts: &[&str]) -> Result<Bundle, BundleError> {
    Bundle::from_pem("mana.so", chain.as_bytes(), key.as_bytes(), hosts)
}

fn refusal(chain: &str, key: &str, hosts: &[&str]) -> String {
    load(chain, key, hosts)
        .expect_err("it is refused")
        .to_string()
}

#[test]
fn a_good_bundle_says_what_it_is() {
    let chain = Chain::issue();
    let bundle = load(&chain.full(), &chain.leaf_key, &["mana.so", "www.mana.so"]).unwrap();
    assert_eq!(bundle.name, "mana.so");
    assert_eq!(bundle.names, ["mana.so", "*.mana.so"]);
    assert_eq!(bundle.subject, "mana.so");
    assert_eq!(bundle.issuer, "test intermediate");
    assert_eq!(bundle.certified.cert.len(), 2);
    let left = bundle.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left > 9 * DAY && left <= 10 * DAY);
    assert!(bundle.check(SystemTime::now()).is_ok());
}

#[test]
fn a_root_at_the_end_and_a_doubled_leaf_are_tolerated() {
    let chain = Chain::issue();
    let with_root = format!("{}{}", chain.full(), chain.root);
    assert_eq!(
        load(&with_root, &chain.leaf_key, &[])
            .unwrap()
            .certified
            .cert
            .len(),
        3
    );
    let doubled = format!("{}{}", chain.leaf, chain.full());
    assert_eq!(
        load(&doubled, &chain.leaf_key, &[])
            .unwrap()
            .certified
            .cert
            .len(),
        2
    );
}

#[test]
fn key_and_chain_may_stand_in_one_file() {
    let chain = Chain::issue();
    let both = format!("{}{}", chain.leaf_key, chain.full());
    assert!(load(&both, &both, &["mana.so"]).is_ok());
}

#[test]
fn a_key_that_is_not_the_leafs_is_refused() {
    let chain = Chain::issue();
    let other = KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(
        refusal(&chain.full(), &other, &[]),
        "the key does not belong to the certificate for mana.so"
    );
    assert_eq!(
        refusal(&chain.full(), &chain.intermediate_key, &[]),
        "the key belongs to certificate 2 of the chain, for test intermediate; that one has to be the first"
    );
}

#[test]
fn a_chain_out_of_order_is_refused() {
    let chain = Chain::issue();
    let leaf_last = format!("{}{}", chain.intermediate, chain.leaf);
    assert_eq!(
        refusal(&leaf_last, &chain.leaf_key, &[]),
        "the key belongs to certificate 2 of the chain, for mana.so; that one has to be the first"
    );
    let skipped = format!("{}{}{}", chain.leaf, chain.root, chain.intermediate);
    assert_eq!(
        refusal(&skipped, &chain.leaf_key, &[]),
        "the certificate for mana.so has to be followed by that of its issuer test intermediate, not of test root"
    );
}

#[test]
fn a_host_that_is_not_covered_is_refused() {
    let chain = Chain::issue();
    assert_eq!(
        refusal(&chain.full(), &chain.leaf_key, &["mana.so", "mana.to"]),
        "the certificate for mana.so does not cover mana.to; it covers mana.so, *.mana.so"
    );
    let nameless = KeyPair::generate().unwrap();
    let certificate = authority("nameless").self_signed(&nameless).unwrap().pem();
    assert_eq!(
        refusal(&certificate, &nameless.serialize_pem(), &["mana.so"]),
        "the certificate for nameless does not cover mana.so; \
         it covers no name (it has no subject alternative names)"
    );
}

#[test]
fn a_wildcard_covers_one_label() {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf_params(&["*.mana.so", "192.0.2.1"])
        .self_signed(&key)
        .unwrap()
        .pem();
    let bundle = load(&certificate, &key.serialize_pem(), &[]).unwrap();
    for (host, is_covered) in [
        ("www.mana.so", true),
        ("WWW.Mana.So", true),
        ("mana.so", false),
        ("a.b.mana.so", false),
        ("mana.to", false),
        ("192.0.2.1", true),
        ("192.0.2.2", false),
        ("", false),
        ("a b", false),
    ] {
        assert_eq!(bundle.covers(host), is_covered, "{host}");
    }
    assert_eq!(bundle.names, ["*.mana.so", "192.0.2.1"]);
}

#[test]
fn dates_are_checked_apart_from_loading() {
    let chain = Chain::issue();
    let bundle = load(&chain.full(), &chain.leaf_key, &[]).unwrap();
    let second = Duration::from_secs(1);
    assert!(bundle.check(bundle.not_before).is_ok());
    assert!(bundle.check(bundle.not_after).is_ok());
    let expired = bundle.check(bundle.not_after + second).unwrap_err();
    assert!(matches!(expired, BundleError::Expired { .. }));
    let day = date(bundle.not_after);
    assert_eq!(
        expired.to_string(),
        format!("the certificate for mana.so expired on {day}")
    );
    let early = bundle.check(bundle.not_before - second).unwrap_err();
    assert!(matches!(early, BundleError::NotYetValid { .. }));
}

#[test]
fn what_is_no_chain_and_no_key_is_refused() {
    let chain = Chain::issue();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let not_a_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let not_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let truncated = &chain.leaf[..chain.leaf.len() / 2];
    let full = chain.full();
    let key = chain.leaf_key.as_str();
    for (chain_pem, key_pem, expected) in [
        ("", key, "the chain of mana.so has no certificate"),
        (key, key, "the chain of mana.so has no certificate"),
        (truncated, key, "the chain of mana.so is no PEM"),
        (
            not_x509,
            key,
            "certificate 1 in the chain of mana.so is no X.509 certificate",
        ),
        (&full, "", "the key of mana.so has no private key"),
        (&full, &full, "the key of mana.so has no private key"),
        (
            &full,
            encrypted,
            "the key of mana.so is encrypted; store it without a passphrase, readable by the daemon only",
        ),
        (&full, not_a_key, "the key of mana.so cannot be used"),
        (&full, &key[..key.len() / 2], "the key of mana.so is no PEM"),
    ] {
        assert_eq!(refusal(chain_pem, key_pem, &[]), expected);
    }
}

#[test]
fn files_are_read_and_an_unreadable_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (chain_path, key_path) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let chain = Chain::issue();
    std::fs::write(&chain_path, chain.full()).unwrap();
    let missing = Bundle::from_files("mana.so", &chain_path, &key_path, &[]).unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("cannot read {}", key_path.display())
    );
    assert!(missing.source().is_some());

    std::fs::write(&key_path, &chain.leaf_key).unwrap();
    assert!(Bundle::from_files("mana.so", &chain_path, &key_path, &["mana.so"]).is_ok());

    std::fs::write(
        &key_path,
        vec![b'\n'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1],
    )
    .unwrap();
    let long = Bundle::from_files("mana.so", &chain_path, &key_path, &[]).unwrap_err();
    assert!(matches!(long, BundleError::Unreadable { .. }));
}

#[test]
fn debug_shows_names_and_no_key() {
    let chain = Chain::issue();
    let bundle = load(&chain.full(), &chain.leaf_key, &[]).unwrap();
    let text = format!("{bundle:?}");
    assert!(text.contains("*.mana.so"));
    assert!(!text.to_lowercase().contains("key"), "{text}");
    let key_line = chain.leaf_key.lines().nth(1).unwrap();
    assert!(!text.contains(key_line));
}

//! A reload is all or nothing, and touches no connection.

use crate::support::client::tls::{Offer, agreed, connect};
use crate::support::config::{ConfigBuilder, SiteBuilder};
use crate::support::{H1, HOST, Proxy, Stage, Upstream, eventually};

fn config_of(stage: &Stage) -> ConfigBuilder {
    ConfigBuilder::new(&[&stage.blue.address()], &[&stage.green.address()])
}

#[tokio::test]
async fn a_bad_configuration_changes_nothing_and_every_fault_is_named() {
    let stage = Stage::start().await;
    let before = stage.proxy.site().await;
    let mut config = config_of(&stage);
    config
        .site()
        .set("unknown_key", "1")
        .set("initial", r#""red""#);
    stage.proxy.write_config(&config.text());
    let reply = stage.proxy.control("reload").await;
    assert_eq!(reply["ok"], false, "{reply}");
    let said = reply.to_string();
    assert!(
        said.contains("unknown_key") && said.contains("red"),
        "{said}"
    );
    assert_eq!(stage.proxy.site().await["generation"], before["generation"]);
    assert_eq!(stage.who_answers().await, "blue");

    let output = stage.proxy.cli(&["reload"]).await;
    assert!(!output.status.success(), "{output:?}");
}

#[tokio::test]
async fn sighup_reloads_and_says_what_is_wrong() {
    let stage = Stage::start().await;
    stage.proxy.write_config("[[site");
    stage.proxy.signal("HUP");
    eventually("the fault is logged", async || {
        stage.proxy.stderr().contains("mana-proxy.toml")
    })
    .await;
    assert_eq!(stage.who_answers().await, "blue");

    let mut config = config_of(&stage);
    config.site().hsts("max-age=60");
    stage.proxy.write_config(&config.text());
    stage.proxy.signal("HUP");
    eventually("the new setting is in force", async || {
        stage
            .h1()
            .await
            .get("/")
            .await
            .header("strict-transport-security")
            == Some("max-age=60")
    })
    .await;
}

#[tokio::test]
async fn a_new_site_is_served_under_its_own_certificate() {
    let stage = Stage::start().await;
    let (blue, green) = (
        Upstream::start("other-blue").await,
        Upstream::start("other-green").await,
    );
    let mut config = config_of(&stage);
    config.add_site(SiteBuilder::new(
        "other.example",
        &[&blue.address()],
        &[&green.address()],
    ));
    stage.proxy.write_config(&config.text());
    let mut old = stage.h1().await;
    assert_eq!(old.get("/").await.text(), "blue");
    stage.proxy.done("reload").await;
    assert_eq!(
        old.get("/").await.text(),
        "blue",
        "the connection has gone on"
    );

    let stream = connect(stage.proxy.https(), &Offer::h1("other.example"))
        .await
        .unwrap();
    let certificate = agreed(&stream).certificate;
    assert!(
        certificate
            .windows(13)
            .any(|window| window == b"other.example")
    );
    let mut client = H1::over(stream);
    client
        .send("GET / HTTP/1.1\r\nhost: other.example\r\n\r\n")
        .await;
    assert_eq!(client.response("GET").await.text(), "other-blue");
    // Two sites: a verb has to say which.
    stage.proxy.refused("switch green", "invalid").await;
    stage.proxy.done("switch green --site other.example").await;
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn the_active_slot_survives_a_reload() {
    let stage = Stage::start().await;
    stage.switch("green").await;
    let mut config = config_of(&stage);
    config.site().hsts("max-age=60");
    stage.proxy.write_config(&config.text());
    stage.proxy.done("reload").await;
    assert_eq!(stage.proxy.site().await["active"], "green");
    assert_eq!(stage.who_answers().await, "green");
}

#[tokio::test]
async fn new_upstream_addresses_are_used_after_a_reload() {
    let stage = Stage::start().await;
    let moved = Upstream::start("moved").await;
    let config = ConfigBuilder::new(&[&moved.address()], &[&stage.green.address()]);
    stage.proxy.write_config(&config.text());
    stage.proxy.done("reload").await;
    eventually("the new address serves", async || {
        stage.who_answers().await == "moved"
    })
    .await;
}

#[tokio::test]
async fn the_state_wins_over_the_configuration_for_the_active_slot_alone() {
    let mut stage = Stage::start().await;
    stage.switch("green").await;
    let moved = Upstream::start("moved").await;
    let config = ConfigBuilder::new(&[&stage.blue.address()], &[&moved.address()]);
    stage.proxy.sigkill().await;
    stage.proxy.write_config(&config.text());
    stage.proxy.restart(&[]).await;
    assert_eq!(stage.proxy.site().await["active"], "green");
    eventually("green is found at its new address", async || {
        stage.who_answers().await == "moved"
    })
    .await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named() {
    let stage = Stage::start().await;
    let mut config = config_of(&stage);
    config.set("server", "workers", "1");
    stage.proxy.write_config(&config.text());
    let reply = stage.proxy.control("reload").await;
    assert!(reply.to_string().contains("workers"), "{reply}");
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn a_certificate_from_files_is_served_and_replaced_by_a_reload() {
    let (blue, green) = (
        Upstream::start("blue").await,
        Upstream::start("green").await,
    );
    let mut config = ConfigBuilder::new(&[&blue.address()], &[&green.address()]);
    config
        .site()
        .set("certificate", r#"{ chain = "cert.pem", key = "key.pem" }"#);
    let home = crate::support::proxy::Home::new(&config);
    let first = write_certificate(home.path());
    let proxy = home.start(&[]).await;
    assert_eq!(certificate_of(&proxy).await, first);
    let second = write_certificate(proxy.path());
    proxy.done("reload").await;
    assert_eq!(certificate_of(&proxy).await, second);

    // A key of another certificate: refused, the one before stays.
    let key = std::fs::read(proxy.path().join("key.pem")).unwrap();
    write_certificate(proxy.path());
    std::fs::write(proxy.path().join("key.pem"), key).unwrap();
    let reply = proxy.control("reload").await;
    assert_eq!(reply["ok"], false, "{reply}");
    assert_eq!(certificate_of(&proxy).await, second);
}

async fn certificate_of(proxy: &Proxy) -> Vec<u8> {
    agreed(&connect(proxy.https(), &Offer::h1(HOST)).await.unwrap()).certificate
}

/// Writes a new certificate and its key; the certificate in DER.
fn write_certificate(directory: &std::path::Path) -> Vec<u8> {
    let names = vec![HOST.to_owned(), crate::support::ALIAS.to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().to_vec()
}

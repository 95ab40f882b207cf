//! Who the client is: one decision for the upstream, the access log and redirects, and nobody believed who is not
//! trusted.

use bytes::Bytes;

use crate::support::{ALIAS, ConfigBuilder, H1, H2, Stage, eventually};

fn trusting(config: &mut ConfigBuilder) {
    config.set("client", "trusted", r#"["127.0.0.0/8", "10.0.0.0/8"]"#);
    config.access_log("./access.log");
}

const CHAIN: &str = "x-forwarded-for: 1.2.3.4, 203.0.113.9\r\nx-forwarded-for: 10.7.7.7\r\n\
                     x-real-ip: 1.2.3.4\r\nforwarded: for=1.2.3.4\r\n";

#[tokio::test]
async fn a_trusted_peer_names_the_client_for_upstream_and_access_log() {
    let stage = Stage::with(trusting).await;
    stage
        .h1()
        .await
        .request("GET", "/reflect", CHAIN, b"")
        .await;
    let seen = stage.blue.last_seen("/reflect");
    assert_eq!(
        seen.header("x-forwarded-for"),
        Some("203.0.113.9, 10.7.7.7, 127.0.0.1")
    );
    assert_eq!(seen.header("x-real-ip"), Some("203.0.113.9"));
    assert_eq!(seen.header("forwarded"), None);

    let request = H2::to("/reflect")
        .header("x-forwarded-for", "[2001:db8::7]:4711")
        .body(())
        .unwrap();
    stage.h2().await.request(request, Bytes::new()).await;
    let seen = stage.blue.last_seen("/reflect");
    assert_eq!(
        seen.header("x-forwarded-for"),
        Some("2001:db8::7, 127.0.0.1")
    );

    let path = stage.proxy.path().join("access.log");
    let log = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("both lines", async || log().lines().count() == 2).await;
    let clients: Vec<_> = log()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["client"].clone())
        .collect();
    assert_eq!(clients, ["203.0.113.9", "2001:db8::7"]);
}

#[tokio::test]
async fn a_reload_changes_who_is_believed() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client.request("GET", "/reflect", CHAIN, b"").await;
    let seen = stage.blue.last_seen("/reflect");
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    let mut config = ConfigBuilder::new(&[&stage.blue.address()], &[&stage.green.address()]);
    trusting(&mut config);
    stage.proxy.write_config(&config.text());
    stage.proxy.done("reload").await;
    client.request("GET", "/reflect", CHAIN, b"").await;
    let seen = stage.blue.last_seen("/reflect");
    assert_eq!(seen.header("x-real-ip"), Some("203.0.113.9"));
}

#[tokio::test]
async fn a_cdn_that_speaks_http_to_the_origin_is_not_redirected_in_a_loop() {
    let stage = Stage::with(trusting).await;
    let mut cdn = stage.plain().await;
    let response = cdn
        .request("GET", "/reflect", "x-forwarded-proto: https\r\n", b"")
        .await;
    assert_eq!(response.status, 200);
    let seen = stage.blue.last_seen("/reflect");
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    // Its client asked for http: that one is sent on to https, in one hop.
    let response = cdn
        .request("GET", "/a", "x-forwarded-proto: http\r\n", b"")
        .await;
    assert_eq!(response.status, 301);
    assert_eq!(response.header("location"), Some("https://mana.so/a"));
    let to_alias = format!("GET /a HTTP/1.1\r\nhost: {ALIAS}\r\nx-forwarded-proto: https\r\n\r\n");
    cdn.send(to_alias).await;
    let response = cdn.response("GET").await;
    assert_eq!(response.header("location"), Some("https://mana.so/a"));
}

#[tokio::test]
async fn a_stranger_cannot_claim_https() {
    let stage = Stage::start().await;
    let response = stage
        .plain()
        .await
        .request("GET", "/", "x-forwarded-proto: https\r\n", b"")
        .await;
    assert_eq!(response.status, 301);
}

#[tokio::test]
async fn a_locked_site_answers_strangers_403_and_its_cdn_as_ever() {
    let stage = Stage::with(|config| {
        config.set("client", "trusted", r#"["127.0.0.2/32"]"#);
        config.set("listen", "http", r#"["127.0.0.1:0"]"#);
        config.site().set("only_trusted", "true");
    })
    .await;
    for mut stranger in [stage.h1().await, stage.plain().await] {
        let response = stranger
            .request("GET", "/", "x-forwarded-for: 127.0.0.2\r\n", b"")
            .await;
        assert_eq!(response.status, 403);
    }
    assert_eq!(stage.h2().await.get("/").await.status, 403);
    assert_eq!(stage.blue.requests(), 0);

    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let from_the_cdn = socket.connect(stage.proxy.http()).await.unwrap();
    let response = H1::over(from_the_cdn)
        .request("GET", "/", "x-forwarded-proto: https\r\n", b"")
        .await;
    assert_eq!(response.text(), "blue");
}

#[tokio::test]
async fn a_site_sets_and_removes_response_fields_and_a_reload_changes_them() {
    let fields = |config: &mut ConfigBuilder, policy: &str| {
        config.site().set(
            "response_headers",
            &format!(r#"{{ content-security-policy = {policy:?}, X-Kept = "ours" }}"#),
        );
    };
    let stage = Stage::with(|config| {
        fields(config, "default-src 'self'");
        config
            .site()
            .set("remove_response_headers", r#"["Content-Type", "x-absent"]"#);
    })
    .await;
    let mut h1 = stage.h1().await;
    let over_h1 = h1.get("/hop").await;
    let over_h2 = stage.h2().await.get("/hop").await;
    for response in [over_h1, over_h2] {
        assert_eq!(response.text(), "hop");
        assert_eq!(
            response.header("content-security-policy"),
            Some("default-src 'self'")
        );
        assert_eq!(response.header("x-kept"), Some("ours"));
        assert_eq!(response.header("content-type"), None);
    }
    let mut config = ConfigBuilder::new(&[&stage.blue.address()], &[&stage.green.address()]);
    fields(&mut config, "default-src 'none'");
    stage.proxy.write_config(&config.text());
    stage.proxy.done("reload").await;
    let response = h1.get("/hop").await;
    assert_eq!(
        response.header("content-security-policy"),
        Some("default-src 'none'")
    );

    // What cannot be sent is refused, and what was in force goes on.
    fields(&mut config, "a\r\nset-cookie: b");
    stage.proxy.write_config(&config.text());
    let refused = stage.proxy.control("reload").await;
    assert_eq!(refused["ok"], false);
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("no value of a field"),
        "{refused}"
    );
    assert_eq!(h1.get("/hop").await.header("x-kept"), Some("ours"));
}

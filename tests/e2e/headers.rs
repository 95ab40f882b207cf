//! What the upstream learns of the client, and what stays between two neighbours.

use bytes::Bytes;

use crate::support::{H2, HOST, Stage};

#[tokio::test]
async fn forwarded_fields_say_what_the_proxy_saw_and_nothing_else() {
    let stage = Stage::start().await;
    let lies = "x-forwarded-for: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8\r\nx-real-ip: 1.2.3.4\r\n\
                x-forwarded-proto: http\r\nx-forwarded-host: evil.example\r\nforwarded: for=1.2.3.4\r\n";
    stage.h1().await.request("GET", "/reflect", lies, b"").await;
    let seen = stage.blue.last_seen("/reflect");
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some(HOST));
    assert_eq!(seen.header("host"), Some(HOST));
    assert_eq!(seen.header("forwarded"), None);

    let request = H2::to("/reflect")
        .header("x-forwarded-for", "1.2.3.4")
        .body(())
        .unwrap();
    stage.h2().await.request(request, Bytes::new()).await;
    let seen = stage.blue.last_seen("/reflect");
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("host"), Some(HOST));
    assert_eq!(seen.header("x-forwarded-host"), Some(HOST));
}

#[tokio::test]
async fn every_request_has_an_id_of_its_own_that_the_client_learns() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let response = client.get("/reflect").await;
        let id = stage
            .blue
            .last_seen("/reflect")
            .header("x-request-id")
            .unwrap()
            .to_owned();
        assert!(!id.is_empty());
        assert_eq!(response.header("x-request-id"), Some(id.as_str()));
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn fields_of_the_clients_connection_do_not_reach_the_upstream() {
    let stage = Stage::start().await;
    let hops = "connection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\nproxy-authorization: Basic x\r\n\
                proxy-connection: keep-alive\r\nte: trailers\r\nupgrade: h2c\r\nx-kept: 1\r\n";
    let response = stage.h1().await.request("GET", "/reflect", hops, b"").await;
    assert_eq!(response.status, 200);
    let seen = stage.blue.last_seen("/reflect");
    for name in [
        "keep-alive",
        "x-hop",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "upgrade",
    ] {
        assert_eq!(seen.header(name), None, "{}", seen.head);
    }
    assert_eq!(seen.header("x-kept"), Some("1"));
}

#[tokio::test]
async fn fields_of_the_upstreams_connection_do_not_reach_the_client() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    let over_h1 = client.get("/hop").await;
    let over_h2 = stage.h2().await.get("/hop").await;
    for response in [over_h1, over_h2] {
        assert_eq!(response.text(), "hop");
        for name in ["keep-alive", "x-hop", "proxy-connection", "upgrade"] {
            assert_eq!(response.header(name), None, "{response:?}");
        }
        assert_eq!(response.header("x-kept"), Some("1"));
    }
    assert_eq!(client.get("/").await.text(), "blue");
}

#[tokio::test]
async fn a_client_that_closes_does_not_close_the_upstream_connection() {
    let stage = Stage::with(|config| {
        config.set("server", "workers", "1");
    })
    .await;
    for _ in 0..5 {
        let response = stage
            .h1()
            .await
            .request("GET", "/", "connection: close\r\n", b"")
            .await;
        assert_eq!(response.header("connection"), Some("close"));
    }
    let seen = stage.blue.seen();
    let connections: std::collections::BTreeSet<_> =
        seen.iter().map(|seen| seen.connection).collect();
    assert_eq!(
        connections.len(),
        1,
        "each request had a new upstream connection"
    );
}

#[tokio::test]
async fn cookie_crumbs_of_h2_are_joined() {
    let stage = Stage::start().await;
    let request = H2::to("/reflect")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("cookie", "c=3")
        .body(())
        .unwrap();
    stage.h2().await.request(request, Bytes::new()).await;
    assert_eq!(
        stage.blue.last_seen("/reflect").header("cookie"),
        Some("a=1; b=2; c=3")
    );
}

#[tokio::test]
async fn path_and_query_reach_the_upstream_byte_for_byte() {
    let stage = Stage::start().await;
    let mut h1 = stage.h1().await;
    let h2 = stage.h2().await;
    for target in [
        "/a%2Fb//c/../d?x=%20&y=+&z",
        "/?",
        "/%E4%B8%AD?q=a/b?c",
        "/;p=1/~u",
        "/a?url=http://x.so/%3F",
    ] {
        assert_eq!(h1.get(target).await.status, 200, "{target}");
        assert_eq!(stage.blue.seen().last().unwrap().target, target);
        assert_eq!(h2.get(target).await.status, 200, "{target}");
        assert_eq!(stage.blue.seen().last().unwrap().target, target);
    }
}

#[tokio::test]
async fn an_absolute_target_is_forwarded_as_a_path() {
    let stage = Stage::start().await;
    let response = stage
        .h1()
        .await
        .get(&format!("https://{HOST}/reflect?a=1"))
        .await;
    assert_eq!(response.status, 200);
    let seen = stage.blue.last_seen("/reflect");
    assert_eq!(seen.target, "/reflect?a=1");
    assert_eq!(seen.header("host"), Some(HOST));
}

#[tokio::test]
async fn repeated_response_fields_keep_their_number_and_order() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    let response = client.get("/cookies").await;
    let cookies: Vec<_> = response
        .headers
        .iter()
        .filter(|(name, _)| name == "set-cookie")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2", "c=3"]);
}

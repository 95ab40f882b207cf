//! Every name leads to the canonical host over https in one hop; a name that is not ours leads nowhere.

use bytes::Bytes;
use http::Request;

use crate::support::client::hello::{self, Answer};
use crate::support::client::tls::{Offer, agreed, connect};
use crate::support::{ALIAS, H1, HOST, Response, Stage};

/// A request in which only method, target and host matter.
async fn ask(client: &mut H1, method: &str, target: &str, host: &str) -> Response {
    let length = if method == "POST" {
        "content-length: 0\r\n"
    } else {
        ""
    };
    client
        .send(format!(
            "{method} {target} HTTP/1.1\r\nhost: {host}\r\n{length}\r\n"
        ))
        .await;
    client.response(method).await
}

#[tokio::test]
async fn plain_http_and_the_alias_lead_to_the_canonical_host_in_one_hop() {
    let stage = Stage::start().await;
    let target = "/a%2Fb//c?x=%20&y=https://evil.example/#";
    let target = target.trim_end_matches('#');
    let expected = format!("https://{HOST}{target}");
    for host in [HOST, ALIAS, "WWW.Mana.So", "mana.so."] {
        let response = ask(&mut stage.plain().await, "GET", target, host).await;
        assert_eq!(
            (response.status, response.header("location")),
            (301, Some(expected.as_str())),
            "{host}"
        );
    }
    let response = ask(&mut stage.h1().await, "GET", target, ALIAS).await;
    assert_eq!(
        (response.status, response.header("location")),
        (301, Some(expected.as_str()))
    );

    let request = Request::get(format!("https://{ALIAS}/a?b=c"))
        .body(())
        .unwrap();
    let response = stage.h2().await.request(request, Bytes::new()).await;
    assert_eq!(response.status, 301);
    assert_eq!(
        response.header("location"),
        Some(format!("https://{HOST}/a?b=c").as_str())
    );
    assert_eq!(stage.blue.requests() + stage.green.requests(), 0);
}

#[tokio::test]
async fn a_port_that_the_client_named_leads_to_the_port_that_https_is_on() {
    let stage = Stage::start().await;
    let http = format!("{HOST}:{}", stage.proxy.http().port());
    let response = ask(&mut stage.plain().await, "GET", "/a", &http).await;
    let expected = format!("https://{HOST}:{}/a", stage.proxy.https().port());
    assert_eq!(response.header("location"), Some(expected.as_str()));
}

#[tokio::test]
async fn a_redirect_keeps_the_method_where_the_method_matters() {
    let stage = Stage::start().await;
    for (method, status) in [
        ("GET", 301),
        ("HEAD", 301),
        ("POST", 308),
        ("PUT", 308),
        ("DELETE", 308),
    ] {
        let response = ask(&mut stage.plain().await, method, "/", HOST).await;
        assert_eq!(response.status, status, "{method}");
    }
}

#[tokio::test]
async fn a_host_that_is_not_ours_is_refused_and_never_redirected_to() {
    let stage = Stage::start().await;
    for host in [
        "evil.example",
        "mana.so.evil.example",
        "127.0.0.1",
        "[::1]",
        "xmana.so",
        "evil.example:443",
    ] {
        let response = ask(&mut stage.plain().await, "GET", "/", host).await;
        assert_eq!(
            (response.status, response.header("location")),
            (400, None),
            "{host}"
        );
        let response = ask(&mut stage.h1().await, "GET", "/", host).await;
        assert_eq!(
            (response.status, response.header("location")),
            (421, None),
            "{host}"
        );
    }
    let request = Request::get("https://evil.example/").body(()).unwrap();
    let response = stage.h2().await.request(request, Bytes::new()).await;
    assert_eq!(response.status, 421);
    assert_eq!(stage.blue.requests() + stage.green.requests(), 0);
}

#[tokio::test]
async fn a_path_cannot_become_a_host() {
    let stage = Stage::start().await;
    for target in [
        "//evil.example/",
        "/\\evil.example",
        "/%2F/evil.example",
        "/@evil.example",
    ] {
        let response = ask(&mut stage.plain().await, "GET", target, HOST).await;
        match response.header("location") {
            Some(location) => assert!(
                location.starts_with(&format!("https://{HOST}/")),
                "{location}"
            ),
            None => assert_eq!(response.status, 400, "{target}"),
        }
    }
}

#[tokio::test]
async fn a_request_for_a_known_host_is_served_whatever_its_case() {
    let stage = Stage::start().await;
    for host in ["MANA.SO", "Mana.So.", "mana.so:443"] {
        let response = ask(&mut stage.h1().await, "GET", "/", host).await;
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "blue"),
            "{host}"
        );
    }
}

#[tokio::test]
async fn strict_transport_security_is_sent_over_tls_when_it_is_configured() {
    let stage = Stage::with(|config| {
        config.site().hsts("max-age=31536000; includeSubDomains");
    })
    .await;
    let expected = Some("max-age=31536000; includeSubDomains");
    assert_eq!(
        stage
            .h1()
            .await
            .get("/")
            .await
            .header("strict-transport-security"),
        expected
    );
    assert_eq!(
        stage
            .h2()
            .await
            .get("/")
            .await
            .header("strict-transport-security"),
        expected
    );
    // RFC 6797 7.2: never over plain http.
    let response = ask(&mut stage.plain().await, "GET", "/", HOST).await;
    assert_eq!(response.header("strict-transport-security"), None);
}

#[tokio::test]
async fn without_being_configured_no_strict_transport_security_is_sent() {
    let stage = Stage::start().await;
    assert_eq!(
        stage
            .h1()
            .await
            .get("/")
            .await
            .header("strict-transport-security"),
        None
    );
}

#[tokio::test]
async fn a_server_name_is_found_whatever_its_case_and_with_a_trailing_dot() {
    let stage = Stage::start().await;
    for name in [
        &b"mana.so"[..],
        b"MANA.SO",
        b"Mana.So",
        b"mana.so.",
        b"WWW.mana.so",
    ] {
        let answer = hello::offer(stage.proxy.https(), name).await;
        let Answer::Flight(flight) = answer else {
            panic!("{answer:?} to {:?}", String::from_utf8_lossy(name));
        };
        assert!(
            contains(&flight, b"mana.so"),
            "the certificate does not name the site"
        );
    }
}

#[tokio::test]
async fn a_server_name_that_is_not_ours_gets_the_first_site_and_can_read_its_421() {
    let stage = Stage::start().await;
    for name in ["evil.example", "mana.so.evil.example", "xmana.so"] {
        let stream = connect(stage.proxy.https(), &Offer::h1(name))
            .await
            .unwrap();
        assert!(contains(&agreed(&stream).certificate, b"mana.so"), "{name}");
        let mut client = H1::over(stream);
        client
            .send(format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n"))
            .await;
        let response = client.response("GET").await;
        assert_eq!(response.status, 421, "{name}");
    }
}

#[tokio::test]
async fn a_client_without_a_server_name_is_served_the_first_site() {
    let stage = Stage::start().await;
    let stream = connect(stage.proxy.https(), &Offer::h1(HOST).without_name())
        .await
        .unwrap();
    assert!(contains(&agreed(&stream).certificate, b"mana.so"));
    assert_eq!(H1::over(stream).get("/").await.text(), "blue");
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

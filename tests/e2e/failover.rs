//! An upstream that cannot answer is passed over where that is safe, and named where it is not.

use crate::support::config::ConfigBuilder;
use crate::support::{H1, HOST, Mode, Proxy, Stage, Upstream, eventually};

/// An address at which nobody listens.
async fn nobody() -> Upstream {
    let upstream = Upstream::start("nobody").await;
    upstream.stop().await;
    upstream
}

#[tokio::test]
async fn the_standby_answers_when_the_active_slot_cannot_be_reached() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    assert_eq!(client.get("/").await.text(), "blue");
    stage.blue.stop().await;
    // Nothing was sent to blue, so a POST may move on as well.
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "green");
        let response = client
            .request("POST", "/echo", "x-test-id: one\r\n", b"body")
            .await;
        assert_eq!((response.status, response.text().as_str()), (200, "body"));
    }
    let site = stage.proxy.site().await;
    assert_eq!(site["active"], "blue", "a failover is no cutover");
}

#[tokio::test]
async fn the_active_slot_is_used_again_once_it_is_back() {
    let stage = Stage::start().await;
    stage.blue.stop().await;
    stage.proxy.wait_for_health("blue", false).await;
    assert_eq!(stage.who_answers().await, "green");
    stage.blue.start_again().await;
    stage.proxy.wait_for_health("blue", true).await;
    eventually("blue answers again", async || {
        stage.who_answers().await == "blue"
    })
    .await;
}

#[tokio::test]
async fn the_standby_is_left_alone_while_the_active_slot_works() {
    let stage = Stage::start().await;
    for _ in 0..50 {
        assert_eq!(stage.who_answers().await, "blue");
    }
    assert_eq!(stage.green.requests(), 0);
}

#[tokio::test]
async fn without_any_upstream_the_answer_is_503_until_one_is_back() {
    let stage = Stage::start().await;
    stage.blue.stop().await;
    stage.green.stop().await;
    let mut client = stage.h1().await;
    for method in ["GET", "POST"] {
        let response = client.request(method, "/", "", b"").await;
        assert_eq!(response.status, 503, "{method}");
        let seconds: u32 = response.header("retry-after").unwrap().parse().unwrap();
        assert!(seconds > 0);
    }
    stage.blue.start_again().await;
    eventually("it recovers by itself", async || {
        client.get("/").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn an_error_page_is_what_the_client_accepts() {
    let stage = Stage::start().await;
    stage.blue.stop().await;
    stage.green.stop().await;
    let mut client = stage.h1().await;
    let html = client
        .request("GET", "/", "accept: text/html,*/*\r\n", b"")
        .await;
    assert!(
        html.header("content-type")
            .unwrap()
            .starts_with("text/html"),
        "{html:?}"
    );
    let json = client
        .request("GET", "/", "accept: application/json\r\n", b"")
        .await;
    assert!(
        json.header("content-type")
            .unwrap()
            .starts_with("application/json"),
        "{json:?}"
    );
    let page: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    assert!(page.is_object());
    assert_eq!(json.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn the_three_ways_in_which_an_upstream_fails_are_told_apart() {
    let stage = Stage::with(|config| {
        config.response_timeout("500ms");
    })
    .await;
    let mut client = stage.h1().await;
    let response = client.request("POST", "/die", "", b"body").await;
    assert_eq!(response.status, 502, "it closed without an answer");
    let response = client.get("/hang").await;
    assert_eq!(response.status, 504, "it did not answer in time");
    stage.blue.stop().await;
    stage.green.stop().await;
    assert_eq!(client.get("/").await.status, 503, "it cannot be reached");
}

#[tokio::test]
async fn a_get_that_died_unanswered_is_answered_by_the_standby() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    for _ in 0..10 {
        assert_eq!(client.get("/die?on=blue").await.text(), "green");
    }
}

#[tokio::test]
async fn a_request_that_kills_every_upstream_is_tried_a_bounded_number_of_times() {
    let stage = Stage::start().await;
    let response = stage.h1().await.get("/die").await;
    assert_eq!(response.status, 502);
    let attempts = stage.blue.requests() + stage.green.requests();
    assert!((1..=3).contains(&attempts), "{attempts} attempts");
}

#[tokio::test]
async fn a_post_that_died_unanswered_is_never_sent_twice() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    for number in 0..10 {
        let id = format!("x-test-id: {number}\r\n");
        let response = client
            .request("POST", "/die?on=blue", &id, b"pay once")
            .await;
        assert_eq!(response.status, 502);
    }
    assert_eq!(stage.green.requests(), 0);
    assert!(
        stage.blue.ids().values().all(|count| *count == 1),
        "{:?}",
        stage.blue.ids()
    );
}

#[tokio::test]
async fn an_upstream_that_accepts_and_closes_is_passed_over_for_a_get() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    for mode in [Mode::ClosingOnAccept, Mode::ClosingAfterHead] {
        stage.blue.be(mode);
        for number in 0..20 {
            assert_eq!(client.get("/").await.text(), "green", "{mode:?}");
            let id = format!("x-test-id: {mode:?} {number}\r\n");
            let response = client.request("POST", "/echo", &id, b"once").await;
            assert!([200, 502].contains(&response.status), "{response:?}");
        }
    }
    for (id, count) in stage.green.ids() {
        assert_eq!(count + stage.blue.ids().get(&id).unwrap_or(&0), 1, "{id}");
    }
}

#[tokio::test]
async fn connections_that_died_in_the_pool_are_not_noticed() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    for number in 0..10 {
        assert_eq!(client.get("/").await.text(), "blue");
        // Every pooled connection is closed by the upstream, which is back at once.
        stage.blue.stop().await;
        stage.blue.start_again().await;
        let id = format!("x-test-id: {number}\r\n");
        let response = client.request("POST", "/echo", &id, b"body").await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    let answered = stage.blue.ids().len() + stage.green.ids().len();
    assert_eq!(answered, 10);
    let ids = [stage.blue.ids(), stage.green.ids()];
    assert!(
        ids.iter()
            .flat_map(|ids| ids.values())
            .all(|count| *count == 1)
    );
}

#[tokio::test]
async fn an_upstream_that_closes_after_each_answer_without_saying_so_is_not_noticed() {
    let stage = Stage::with(|config| {
        // So that a connection is taken again in the very moment in which it is closed.
        config.set("server", "workers", "1");
    })
    .await;
    stage.blue.be(Mode::ClosingAfterAnswer);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let client = stage.h2().await;
        clients.spawn(async move {
            for _ in 0..50 {
                let response = client.get("/").await;
                assert_eq!((response.status, response.text().as_str()), (200, "blue"));
            }
        });
    }
    clients.join_all().await;
    let made = stage.blue.connections();
    assert!(made > 500, "{made} connections were closed");
    assert!(stage.blue.open() < 10);
}

#[tokio::test]
async fn upstream_connections_are_used_again() {
    let stage = Stage::with(|config| {
        config
            .set("server", "workers", "1")
            .site()
            .health("10s", "1s");
    })
    .await;
    let before = stage.blue.connections();
    for _ in 0..50 {
        assert_eq!(stage.who_answers().await, "blue");
    }
    let made = stage.blue.connections() - before;
    assert!(made < 5, "{made} connections for 50 requests");
}

#[tokio::test]
async fn a_slot_of_several_upstreams_uses_all_and_survives_the_loss_of_one() {
    let (one, other, green) = (
        Upstream::start("one").await,
        Upstream::start("other").await,
        Upstream::start("green").await,
    );
    let config = ConfigBuilder::new(&[&one.address(), &other.address()], &[&green.address()]);
    let proxy = Proxy::start(&config).await;
    proxy.wait_for_health("blue", true).await;
    let mut client = client_of(&proxy).await;
    for _ in 0..60 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(one.requests() > 0 && other.requests() > 0);
    one.stop().await;
    for _ in 0..60 {
        assert_eq!(client.get("/").await.text(), "other");
    }
    assert_eq!(green.requests(), 0);
}

#[tokio::test]
async fn a_name_is_resolved_and_all_its_addresses_are_tried() {
    // It listens on 127.0.0.1 only; localhost may well be ::1 first.
    let (blue, green) = (Upstream::start("blue").await, nobody().await);
    let by_name = blue.address().replace("127.0.0.1", "localhost");
    let proxy = Proxy::start(&ConfigBuilder::new(&[&by_name], &[&green.address()])).await;
    let mut client = client_of(&proxy).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "blue");
    }
}

#[tokio::test]
async fn it_boots_with_only_the_standby_up() {
    let (blue, green) = (nobody().await, Upstream::start("green").await);
    let proxy = Proxy::start(&ConfigBuilder::new(&[&blue.address()], &[&green.address()])).await;
    proxy.wait_for_health("green", true).await;
    let mut client = client_of(&proxy).await;
    assert_eq!(client.get("/").await.text(), "green");
    assert_eq!(proxy.site().await["active"], "blue");
}

#[tokio::test]
async fn it_boots_with_no_upstream_up_and_recovers_by_itself() {
    let (blue, green) = (nobody().await, nobody().await);
    let proxy = Proxy::start(&ConfigBuilder::new(&[&blue.address()], &[&green.address()])).await;
    let mut client = client_of(&proxy).await;
    let response = client.get("/").await;
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    green.start_again().await;
    eventually("the standby serves", async || {
        client.get("/").await.status == 200
    })
    .await;
    blue.start_again().await;
    proxy.wait_for_health("blue", true).await;
    eventually("the active slot serves", async || {
        client.get("/").await;
        blue.requests() > 0
    })
    .await;
}

#[tokio::test]
async fn a_standby_that_is_not_running_is_no_alarm() {
    let (blue, green) = (Upstream::start("blue").await, nobody().await);
    let proxy = Proxy::start(&ConfigBuilder::new(&[&blue.address()], &[&green.address()])).await;
    proxy.wait_for_health("blue", true).await;
    eventually("green is down", async || {
        proxy.site().await["slots"]["green"]["upstreams"][0]["health"] == "down"
    })
    .await;
    let said = proxy.stderr();
    let is_alarm = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let alarms: Vec<_> = said.lines().filter(is_alarm).collect();
    assert!(alarms.is_empty(), "{alarms:#?}");
}

async fn client_of(proxy: &Proxy) -> H1 {
    use crate::support::client::tls::{Offer, connect};
    H1::over(connect(proxy.https(), &Offer::h1(HOST)).await.unwrap())
}

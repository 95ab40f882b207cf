//! Minutes of everything at once: good clients of every kind, bad ones beside them, and a switch every few seconds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::client::tls::{Offer, connect};
use crate::support::load::{Load, Tally};
use crate::support::{H1, H2, HOST, Stage, eventually};

/// How long it takes if `SOAK_SECONDS` does not say otherwise.
const SECONDS: u64 = 600;
/// Time between two switches.
const BETWEEN_SWITCHES: Duration = Duration::from_secs(3);
/// Time between two bytes of a client that trickles.
const TRICKLE: Duration = Duration::from_millis(250);
/// What the process may hold more than after its first switch.
const GROWTH_MAX: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ten minutes: `make soak`"]
async fn everything_at_once_for_long_leaves_nothing_behind() {
    let stage = Stage::with(|config| {
        // An event stream never ends by itself, so each switch waits as long as this.
        config.site().drain("300ms", "100ms");
        // All of them come from one address.
        config.set("limits", "requests_per_address", "0");
        config
            .head_timeout("2s")
            .set("timeouts", "client_stall", r#""2s""#);
    })
    .await;
    let (fds_before, mut memory_before) = (stage.proxy.descriptors(), 0);
    let load = Load::everything(&stage.proxy);
    let (over, nuisances) = nuisances(stage.proxy.https());
    let until = Instant::now() + Duration::from_secs(seconds());
    let mut switches = 0;
    for slot in ["green", "blue"].iter().cycle() {
        tokio::time::sleep(BETWEEN_SWITCHES).await;
        stage.switch(slot).await;
        switches += 1;
        // The test's own records would grow without end.
        stage.blue.forget();
        stage.green.forget();
        if switches == 3 {
            memory_before = stage.proxy.memory();
        }
        if Instant::now() > until && switches > 3 {
            break;
        }
    }
    let memory_under_load = stage.proxy.memory();
    over.send_replace(true);
    nuisances.join_all().await;
    let tally = load.stop().await;
    println!(
        "{switches} switches, {} requests answered, {} messages, {} websockets and {} streams moved; memory {} -> {} KiB",
        tally.answered,
        tally.messages,
        tally.websockets_cut,
        tally.streams_ended,
        memory_before >> 10,
        memory_under_load >> 10
    );
    tally.assert_unnoticed();
    assert!(stage.blue.faults().is_empty(), "{:?}", stage.blue.faults());
    assert!(
        stage.green.faults().is_empty(),
        "{:?}",
        stage.green.faults()
    );
    assert!(memory_under_load < memory_before + GROWTH_MAX);
    nothing_is_left(&stage, fds_before).await;
    counters_agree(&stage, &tally).await;
}

/// What was counted in one place is what was counted in the others, and what the clients have seen.
async fn counters_agree(stage: &Stage, tally: &Tally) {
    let metrics = stage.proxy.metrics().await;
    let sum = |name: &str, with: &str| -> usize {
        let lines = metrics.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' ']) && rest.contains(with)
        });
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as usize)
            .sum()
    };
    let requests = sum("mana_proxy_requests_total", "");
    let tunnels = sum("mana_proxy_tunnels_total", "");
    let timed = sum("mana_proxy_request_duration_seconds_count", "");
    assert_eq!(requests, timed + tunnels, "{metrics}");
    assert_eq!(tunnels, tally.websockets, "{metrics}");
    let good = sum("mana_proxy_requests_total", "class=\"2xx\"");
    assert!(good >= tally.answered, "{good} of {}", tally.answered);
    eventually("each request has its line", async || {
        let dropped = sum("mana_proxy_access_log_dropped_lines", "");
        stage.proxy.stdout().lines().count() + dropped == requests
    })
    .await;
    println!("{requests} requests were counted, timed and logged alike, {tunnels} of them tunnels");
}

async fn nothing_is_left(stage: &Stage, fds_before: usize) {
    stage.proxy.wait_until_idle().await;
    // Pooled connections go after `timeouts.upstream_idle`; each worker may keep one that it has not looked at.
    eventually("the descriptors are back", async || {
        stage.proxy.descriptors() <= fds_before + 8
    })
    .await;
    eventually("the counts are back at nothing", async || {
        let metrics = stage.proxy.metrics().await;
        let is_nothing = |name: &str| {
            let lines = metrics.lines().filter(|line| line.starts_with(name));
            lines.clone().count() > 0 && lines.clone().all(|line| line.ends_with(" 0"))
        };
        is_nothing("mana_proxy_connections ")
            && is_nothing("mana_proxy_tunnels ")
            && is_nothing("mana_proxy_slot_requests_in_flight")
    })
    .await;
    let metrics = stage.proxy.metrics().await;
    let panics = stage.proxy.stderr().matches("panicked").count();
    assert_eq!(panics, 0, "{}", stage.proxy.stderr());
    for (name, why) in [
        ("request_head_timeout", "heads that trickle"),
        ("h2_preface", "connections without a preface"),
    ] {
        assert!(
            metrics.contains(&format!("limit=\"{name}\"")),
            "{why}: {metrics}"
        );
    }
}

fn seconds() -> u64 {
    let text = std::env::var("SOAK_SECONDS").ok();
    text.map_or(SECONDS, |text| {
        text.parse().expect("SOAK_SECONDS is a number")
    })
}

// === those who mean no good ===

fn nuisances(https: SocketAddr) -> (Arc<watch::Sender<bool>>, JoinSet<()>) {
    let over = Arc::new(watch::Sender::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(until_over(over.subscribe(), async move || {
            head_that_trickles(https).await
        }));
        clients.spawn(until_over(over.subscribe(), async move || {
            body_that_stops(https).await
        }));
        clients.spawn(until_over(over.subscribe(), async move || {
            reader_that_stops(https).await
        }));
        clients.spawn(until_over(over.subscribe(), async move || {
            no_preface(https).await
        }));
        clients.spawn(until_over(over.subscribe(), async move || {
            streams_that_are_reset(https).await
        }));
        clients.spawn(until_over(over.subscribe(), async move || {
            no_handshake(https).await
        }));
    }
    (over, clients)
}

async fn until_over(mut over: watch::Receiver<bool>, mut client: impl AsyncFnMut()) {
    let again = async {
        loop {
            client().await;
            tokio::time::sleep(TRICKLE).await;
        }
    };
    tokio::select! {
        () = again => {}
        _ = over.wait_for(|over| *over) => {}
    }
}

async fn open(https: SocketAddr) -> Option<H1> {
    connect(https, &Offer::h1(HOST)).await.ok().map(H1::over)
}

async fn head_that_trickles(https: SocketAddr) {
    let Some(mut client) = open(https).await else {
        return;
    };
    let head = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx-slow: ");
    if client.try_send(head.as_bytes()).await.is_ok() {
        while client.try_send(b"a").await.is_ok() {
            tokio::time::sleep(TRICKLE).await;
        }
    }
}

async fn body_that_stops(https: SocketAddr) {
    let Some(mut client) = open(https).await else {
        return;
    };
    let head =
        format!("POST /sink HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9999\r\n\r\nonly this");
    if client.try_send(head.as_bytes()).await.is_ok() {
        // However it is answered, nothing more comes from here.
        client.reader.try_response("POST").await.ok();
    }
}

async fn reader_that_stops(https: SocketAddr) {
    let Some(mut client) = open(https).await else {
        return;
    };
    let head = format!("GET /size?n=30000000 HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    if client.try_send(head.as_bytes()).await.is_ok() {
        client.reader.head().await;
        tokio::time::sleep(TRICKLE * 12).await;
    }
}

async fn no_preface(https: SocketAddr) {
    if let Ok(mut stream) = connect(https, &Offer::h2(HOST)).await {
        let mut byte = [0; 512];
        while let Ok(1..) = stream.read(&mut byte).await {}
    }
}

async fn no_handshake(https: SocketAddr) {
    if let Ok(stream) = tokio::net::TcpStream::connect(https).await {
        tokio::time::sleep(TRICKLE).await;
        drop(stream);
    }
}

async fn streams_that_are_reset(https: SocketAddr) {
    let Ok(stream) = connect(https, &Offer::h2(HOST)).await else {
        return;
    };
    let client = H2::over(stream).await;
    for _ in 0..50 {
        let request = H2::to("/slow?ms=50").body(()).expect("a request");
        if let Ok((response, mut body)) = client.begin(request).await {
            body.send_reset(h2::Reason::CANCEL);
            drop(response);
        }
    }
}

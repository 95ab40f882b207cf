//! Tunnels: many at rest cost little, one at rest for too long is closed, and one that is half closed delivers.

use futures_util::StreamExt;

use crate::support::client::websocket::{Received, Socket};
use crate::support::{HOST, Stage, eventually, within, within_time};

/// What a tunnel at rest may cost: both connections with their TLS state and buffers.
const BYTES_PER_TUNNEL_MAX: u64 = 64 << 10;
/// Descriptors of the test process beside its tunnels.
const DESCRIPTORS_BESIDE: u64 = 1000;

/// Opens tunnels, leaves them at rest, uses some of them, and closes all.
async fn hold_tunnels(count: usize) {
    let stage = Stage::with(|config| {
        let most = (count + 100).to_string();
        config
            .set("limits", "connections", &most)
            .set("limits", "connections_per_address", &most)
            .set("limits", "tunnels", &most);
    })
    .await;
    // What the first one sets up is not a cost of each.
    stage.websocket().await.close().await;
    let before = stage.proxy.memory();
    let https = stage.proxy.https();
    let opening = futures_util::stream::iter(0..count)
        .map(|_| Socket::open(https))
        .buffer_unordered(32)
        .collect();
    let mut sockets: Vec<Socket> =
        within_time("the tunnels", std::time::Duration::from_secs(300), opening).await;
    let growth = stage.proxy.memory().saturating_sub(before);
    let each = growth / count as u64;
    println!("{count} tunnels: {each} bytes each");
    assert!(each < BYTES_PER_TUNNEL_MAX, "{each} bytes for each tunnel");
    let metrics = stage.proxy.metrics().await;
    assert!(metrics.contains(&format!("mana_proxy_tunnels {count}\n")));
    for socket in sockets.iter_mut().step_by(count / 50 + 1) {
        socket.echo("still here").await;
    }
    assert_eq!(stage.who_answers().await, "blue");
    drop(sockets);
    stage.proxy.wait_until_idle().await;
    eventually("no tunnel is left", async || {
        let metrics = stage.proxy.metrics().await;
        metrics.contains("mana_proxy_tunnels 0\n")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_at_rest_cost_little() {
    hold_tunnels(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs 21000 descriptors and a minute or two: `make soak`"]
async fn ten_thousand_tunnels_at_rest_cost_little() {
    const WANTED: u64 = 10_000;
    // Both ends of the proxy are in this process: two descriptors for each tunnel. The proxy inherits the limit.
    let needed = 2 * WANTED + DESCRIPTORS_BESIDE;
    let (_, hard) = rlimit::Resource::NOFILE.get().unwrap();
    rlimit::Resource::NOFILE.set(needed, needed.max(hard)).ok();
    rlimit::increase_nofile_limit(needed).unwrap();
    let (granted, _) = rlimit::Resource::NOFILE.get().unwrap();
    let count = granted.saturating_sub(DESCRIPTORS_BESIDE) / 2;
    if count < WANTED {
        println!("this machine grants {granted} descriptors: {count} tunnels instead of {WANTED}");
    }
    hold_tunnels(usize::try_from(count.min(WANTED)).unwrap()).await;
}

#[tokio::test]
async fn a_tunnel_at_rest_is_closed_after_its_time_and_one_in_use_is_not() {
    let stage = Stage::with(|config| {
        config.set("timeouts", "stream_idle", r#""400ms""#);
    })
    .await;
    let mut busy = stage.websocket().await;
    let mut idle = stage.websocket().await;
    let mut ended = tokio::spawn(async move { idle.receive().await });
    while !ended.is_finished() {
        busy.echo("tick").await;
    }
    let end = within("the end of the idle one", &mut ended).await.unwrap();
    assert!(!matches!(end, Received::Text(_)), "{end:?}");
    busy.echo("still here").await;
}

#[tokio::test]
async fn a_tunnel_whose_client_has_closed_its_side_still_delivers() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    let mut bytes = format!(
        "GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes();
    // A masked text frame, "hi"; nothing will follow it.
    bytes.extend_from_slice(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    client.send(&bytes).await;
    assert_eq!(client.reader.head().await.status, 101);
    client.finish().await;
    // The greeting, the echo, and the end.
    let frames = client.closed().await;
    assert!(frames.starts_with(b"\x81\x04blue\x81\x02hi"), "{frames:?}");
    stage.proxy.wait_until_idle().await;
}

//! What the tests stand on: the real binary, upstreams that record what reaches them, and plain clients.
//!
//! Nothing here sleeps to wait for something. Whatever takes time is awaited under [`DEADLINE`], which is generous
//! because it only ever passes when a test fails.

use std::future::Future;
use std::time::Duration;

pub mod client;
pub mod config;
pub mod load;
pub mod proxy;
pub mod service;
pub mod stage;
pub mod upstream;

pub use client::{H1, H2, Response};
pub use config::ConfigBuilder;
pub use proxy::Proxy;
pub use stage::Stage;
pub use upstream::{Mode, Ping, Upstream};

/// The canonical host of the site under test.
pub const HOST: &str = "mana.so";
/// Its alias.
pub const ALIAS: &str = "www.mana.so";
/// How long anything may take before the test has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Time between two looks of [`eventually`].
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Awaits something under [`DEADLINE`].
#[track_caller]
pub fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    within_time(what, DEADLINE, future)
}

/// Awaits something under a deadline of its own: for what moves hundreds of megabytes.
pub async fn within_time<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Looks again and again until a claim holds, under [`DEADLINE`].
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await;
}

/// The bytes of which `/size` and `/chunked` are made: byte `i` is `i % 251`.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(pattern_byte).collect()
}

/// Byte `i` of [`pattern`].
pub fn pattern_byte(index: usize) -> u8 {
    u8::try_from(index % 251).unwrap()
}

/// The text of which `/say` is made: it repeats itself enough to be worth compressing.
pub fn text(length: usize) -> String {
    let mut text = String::with_capacity(length + 32);
    for line in 0.. {
        if text.len() >= length {
            break;
        }
        text.push_str(&format!("line {line} of a page, {}\n", line * line % 97));
    }
    text.truncate(length);
    text
}

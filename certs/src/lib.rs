//! Certificates of mana-proxy: ordered, checked, stored, renewed, published.
//!
//! Owns what a bundle is, when it may be served, and how a new one is obtained from a CA (RFC 8555) or from files before
//! the old one ends. Knows nothing of sites' upstreams, sockets or handshakes: the `mana-proxy` crate keeps the keyring
//! that handshakes read and implements [`Publish`] on it, and gives the answers of [`Challenges`].
//!
//! Pure: [`schedule`], [`budget`], [`plan`]. The disk: [`store`], [`files`]. The CA: `account`, `order`, `ari`,
//! `client`. All of it is put together by [`renew`], one task.

/// Does a request again that the CA refused only because of its nonce.
///
/// RFC 8555 s6.5: "the client SHOULD retry the request using the new nonce". `instant-acme` does so twice; under load a
/// CA may refuse more in a row.
macro_rules! retry_nonce {
    ($request:expr) => {{
        let mut left = crate::NONCE_RETRIES;
        loop {
            match $request.await {
                Err(instant_acme::Error::Api(problem))
                    if left > 0 && crate::is_bad_nonce(&problem) =>
                {
                    left -= 1;
                }
                answer => break answer,
            }
        }
    }};
}

mod account;
mod ari;
pub mod budget;
pub mod bundle;
mod chain;
pub mod challenge;
mod client;
mod failpoint;
pub mod files;
pub mod import;
pub mod inspect;
mod order;
mod owner;
pub mod plan;
mod preflight;
pub mod publish;
pub mod renew;
mod request;
pub mod schedule;
pub mod self_signed;
pub mod store;
#[cfg(test)]
mod testing;

pub use account::{CaSettings, Eab, NotBase64, PRODUCTION, STAGING};
pub use bundle::{Bundle, BundleError};
pub use challenge::Challenges;
pub use client::{ANSWER_BYTES_MAX, ClientError, Connector, REQUEST_TIME, https_connector};
pub use order::{ORDER_TIME, OrderError, Prefer};
pub use preflight::{Preflight, ask_at_port_80};
pub use publish::Publish;
pub use request::KeyKind;
pub use self_signed::self_signed;

/// How often a request is made again because of its nonce.
const NONCE_RETRIES: usize = 5;

fn is_bad_nonce(problem: &instant_acme::Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.ends_with(":badNonce")
}

/// `2026-07-27T09:13:21Z`
pub fn text(time: std::time::SystemTime) -> String {
    use std::time::UNIX_EPOCH;
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()),
        Err(before) => i64::try_from(before.duration().as_secs()).map(|seconds| -seconds),
    };
    // Years beyond 9999 cannot be written so; they are as good as never.
    let text = seconds.ok().and_then(|seconds| {
        let date = time::OffsetDateTime::from_unix_timestamp(seconds).ok()?;
        date.format(&time::format_description::well_known::Rfc3339)
            .ok()
    });
    text.unwrap_or_else(|| "never".to_owned())
}

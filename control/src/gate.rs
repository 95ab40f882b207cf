//! The gate before a cutover: every upstream of the new slot must answer k of n fresh probes.
//!
//! Owns the attempts and what is said of the first upstream that fails. The count is in [`crate::health`], one probe
//! in [`crate::probe`]. Called by the driver, as a task that it may drop at any time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::health::{GateCount, Verdict};
use crate::probe::{ProbeError, probe};
use crate::slot::Slot;
use crate::table::HealthCheck;
use crate::upstream::{Health, Upstream};

/// Between two probes of one upstream.
pub const GATE_PAUSE: Duration = Duration::from_millis(100);

/// Why a slot may not become active.
///
/// `green 127.0.0.1:4001 answered 500 where 200 is expected (1 of 3 probes good, 2 needed)`
#[derive(Debug, thiserror::Error)]
#[error("{slot} {address} {last} ({} of {} probes good, {} needed)", .count.good, .count.good + .count.bad, .count.needed)]
pub struct GateFailure {
    slot: Slot,
    address: String,
    last: ProbeError,
    count: GateCount,
}

/// Probes all upstreams of a slot at once. Those that pass are up from then on.
///
/// # Errors
/// The first upstream that can no longer pass.
///
/// # Cancel safety
/// Dropping it ends all probes; nothing was changed unless all had passed.
pub async fn pass(
    slot: Slot,
    upstreams: &[Arc<Upstream>],
    check: &HealthCheck,
) -> Result<(), GateFailure> {
    let mut attempts = JoinSet::new();
    for upstream in upstreams {
        attempts.spawn(pass_one(slot, Arc::clone(upstream), check.clone()));
    }
    while let Some(attempt) = attempts.join_next().await {
        // A task ends early only with the runtime.
        let Ok(result) = attempt else { continue };
        result?;
    }
    for upstream in upstreams {
        upstream.set_health(Health::Up);
    }
    Ok(())
}

async fn pass_one(
    slot: Slot,
    upstream: Arc<Upstream>,
    check: HealthCheck,
) -> Result<(), GateFailure> {
    let mut count = GateCount::new(check.pass, check.of);
    let mut last_failure = None;
    loop {
        let result = probe(&upstream, &check).await;
        let verdict = count.record(result.is_ok());
        last_failure = result.err().or(last_failure);
        match (verdict, last_failure.take()) {
            (Verdict::Passed, _) => return Ok(()),
            (Verdict::Failed, Some(last)) => {
                return Err(GateFailure {
                    slot,
                    address: upstream.address.clone(),
                    last,
                    count,
                });
            }
            (Verdict::Open | Verdict::Failed, failure) => last_failure = failure,
        }
        tokio::time::sleep(GATE_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Backend, check};

    #[tokio::test]
    async fn a_slot_passes_only_with_all_its_upstreams() {
        let (good, bad) = (Backend::start(&[200]).await, Backend::start(&[500]).await);
        let upstreams = [good.upstream(), good.upstream()];
        pass(Slot::Green, &upstreams, &check())
            .await
            .expect("passed");
        assert!(
            upstreams
                .iter()
                .all(|upstream| upstream.health() == Health::Up)
        );
        let upstreams = [good.upstream(), bad.upstream()];
        let error = pass(Slot::Green, &upstreams, &check())
            .await
            .expect_err("failed");
        let expected = format!(
            "green {} answered 500 where 200 is expected (0 of 2 probes good, 2 needed)",
            bad.address()
        );
        assert_eq!(error.to_string(), expected);
        assert!(
            upstreams
                .iter()
                .all(|upstream| upstream.health() == Health::Unknown)
        );
    }

    #[tokio::test]
    async fn one_blip_neither_fails_nor_passes_the_gate() {
        let blip = Backend::start(&[200, 500, 200]).await;
        pass(Slot::Green, &[blip.upstream()], &check())
            .await
            .expect("2 of 3");
        let lucky = Backend::start(&[500, 200, 500]).await;
        let error = pass(Slot::Green, &[lucky.upstream()], &check())
            .await
            .expect_err("1 of 3");
        assert!(
            error.to_string().contains("1 of 3 probes good, 2 needed"),
            "{error}"
        );
    }
}

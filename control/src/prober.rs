//! Probes of all upstreams, all the time: both slots of every site.
//!
//! Owns one task for each upstream of the published table and the log line when its health changes. Follows the
//! table: upstreams that vanish are no longer probed, new ones are at once. A standby that is not running is `down`,
//! which is normal and never more than an info line.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use crate::health::HealthWindow;
use crate::host::Host;
use crate::probe::probe;
use crate::slot::Slot;
use crate::table::{HealthCheck, Published};
use crate::upstream::{Health, Upstream};

/// Between two probes of an upstream of which nothing is known yet, unless its interval is shorter.
pub const FIRST_PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Probes until the sender of `publications` is gone. Each value that is sent makes it look at the table again.
///
/// # Cancel safety
/// Dropping it ends all probes.
pub async fn run(published: Arc<Published>, mut publications: watch::Receiver<u64>) {
    let mut prober = Prober {
        published,
        tasks: JoinSet::new(),
        probed: Vec::new(),
    };
    loop {
        prober.follow();
        if publications.changed().await.is_err() {
            return;
        }
    }
}

struct Prober {
    published: Arc<Published>,
    tasks: JoinSet<()>,
    probed: Vec<(Target, AbortHandle)>,
}

/// One upstream and how it is probed.
#[derive(Clone)]
struct Target {
    host: Host,
    slot: Slot,
    upstream: Arc<Upstream>,
    check: HealthCheck,
}

impl Prober {
    fn follow(&mut self) {
        let wanted = targets(&self.published);
        let is_same =
            |a: &Target, b: &Target| Arc::ptr_eq(&a.upstream, &b.upstream) && a.check == b.check;
        self.probed.retain(|(target, task)| {
            let is_wanted = wanted.iter().any(|wanted| is_same(wanted, target));
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for target in wanted {
            if !self
                .probed
                .iter()
                .any(|(probed, _)| is_same(probed, &target))
            {
                let watching = watch_upstream(target.clone(), Arc::clone(&self.published));
                self.probed.push((target, self.tasks.spawn(watching)));
            }
        }
        // Tasks that were ended leave their results here.
        while self.tasks.try_join_next().is_some() {}
    }
}

fn targets(published: &Published) -> Vec<Target> {
    let table = published.load();
    let mut targets = Vec::new();
    for site in table.sites() {
        for slot in Slot::BOTH {
            for upstream in site.slot(slot).upstreams.iter() {
                targets.push(Target {
                    host: site.settings.host.clone(),
                    slot,
                    upstream: Arc::clone(upstream),
                    check: site.settings.health.clone(),
                });
            }
        }
    }
    targets
}

async fn watch_upstream(target: Target, published: Arc<Published>) {
    let upstream = &target.upstream;
    let mut window = HealthWindow::new(target.check.pass, target.check.of);
    loop {
        let result = probe(upstream, &target.check).await;
        let before = upstream.health();
        window.adopt(before);
        let health = window.record(result.is_ok());
        // A good probe of an upstream that is up ends its mark too.
        if health != before || (health == Health::Up && result.is_ok()) {
            upstream.set_health(health);
        }
        let failure = result.err().map(|error| error.to_string());
        if health != before {
            log_change(&target, health, failure.as_deref(), &published);
        }
        upstream.last_failure.store(failure.map(Arc::new));
        let pause = match health {
            Health::Unknown => FIRST_PROBE_INTERVAL.min(target.check.interval),
            Health::Up | Health::Down => target.check.interval,
        };
        tokio::time::sleep(pause).await;
    }
}

fn log_change(target: &Target, health: Health, failure: Option<&str>, published: &Published) {
    let table = published.load();
    let is_active = table
        .by_name(target.host.as_str())
        .is_some_and(|(site, _)| site.active == target.slot);
    let (site, slot, upstream) = (&target.host, target.slot, &target.upstream.address);
    let reason = failure.unwrap_or("");
    match (health, is_active) {
        (Health::Down, true) => warn!(%site, %slot, upstream, reason, "an active upstream is down"),
        (Health::Down, false) => {
            info!(%site, %slot, upstream, reason, "a standby upstream is down")
        }
        (Health::Up | Health::Unknown, _) => {
            info!(%site, %slot, upstream, is_active, "an upstream is up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{add_new_sites, first_table};
    use crate::state::State;
    use crate::table::Table;
    use crate::testing::{Backend, settings};

    fn table(blue: &Backend, green: &str) -> Table {
        let sites = [settings("mana.so", &blue.address(), green)];
        let mut state = State::default();
        add_new_sites(&mut state, &sites);
        first_table(&state, &sites)
    }

    async fn until(what: impl Fn() -> bool) {
        let seen = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen)
            .await
            .expect("in time");
    }

    #[tokio::test]
    async fn both_slots_are_probed_and_a_standby_may_be_down() {
        let blue = Backend::start(&[200]).await;
        let published = Arc::new(Published::from_pointee(table(&blue, "127.0.0.1:1")));
        let (publications, receiver) = watch::channel(0);
        let prober = tokio::spawn(run(Arc::clone(&published), receiver));
        let health = |slot| published.load().sites()[0].slot(slot).upstreams[0].health();
        until(|| health(Slot::Blue) == Health::Up && health(Slot::Green) == Health::Down).await;
        let green = Arc::clone(&published.load().sites()[0].slot(Slot::Green).upstreams[0]);
        let failure = green.last_failure.load_full().expect("reason");
        assert!(failure.contains("connected"), "{failure}");
        // The next table has another green, which is probed at once; the vanished one is let go.
        let replacement = Backend::start(&[200]).await;
        published.store(Arc::new(table(&blue, &replacement.address())));
        publications.send_replace(1);
        until(|| health(Slot::Green) == Health::Up).await;
        until(|| Arc::strong_count(&green) == 1).await;
        drop(publications);
        prober.await.expect("ends with its sender");
    }
}

//! TLS handshakes in flight: at most so many, and the oldest gives way.
//!
//! Owns the queue of those that have begun. A limit at which newcomers wait would let a few hundred idle sockets shut
//! everybody out for as long as a handshake may take; a client that means it is done within a few round trips, so that
//! the oldest one is the one least likely to come to anything.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The handshakes of all workers.
#[derive(Debug, Default)]
pub struct Handshakes {
    begun: Mutex<Begun>,
}

#[derive(Debug, Default)]
struct Begun {
    next: u64,
    /// By age.
    open: BTreeMap<u64, Arc<Notify>>,
}

/// It had to give way to a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaveWay;

impl Handshakes {
    /// Does one handshake, as one of at most `max`.
    ///
    /// # Errors
    /// It was the oldest when there was one too many.
    ///
    /// # Cancel safety
    /// A dropped future is not counted any more.
    pub async fn one_of<T>(
        &self,
        max: usize,
        handshake: impl Future<Output = T>,
    ) -> Result<T, GaveWay> {
        let one = One::begin(self, max);
        tokio::select! {
            biased;
            done = handshake => Ok(done),
            () = one.must_go.notified() => Err(GaveWay),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Begun> {
        // Nothing that panics is called with the lock held.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct One<'a> {
    all: &'a Handshakes,
    number: u64,
    must_go: Arc<Notify>,
}

impl<'a> One<'a> {
    fn begin(all: &'a Handshakes, max: usize) -> One<'a> {
        let must_go = Arc::new(Notify::new());
        let mut begun = all.lock();
        let number = begun.next;
        begun.next += 1;
        begun.open.insert(number, Arc::clone(&must_go));
        while begun.open.len() > max.max(1) {
            if let Some((_, oldest)) = begun.open.pop_first() {
                oldest.notify_one();
            }
        }
        One {
            all,
            number,
            must_go,
        }
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.all.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way_and_the_others_go_on() {
        let all = Arc::new(Handshakes::default());
        let idle = |all: &Arc<Handshakes>| {
            let all = Arc::clone(all);
            tokio::spawn(async move { all.one_of(2, pending::<()>()).await })
        };
        let first = idle(&all);
        tokio::task::yield_now().await;
        let second = idle(&all);
        tokio::task::yield_now().await;
        assert_eq!(all.one_of(2, async { 7 }).await, Ok(7));
        assert_eq!(first.await.expect("no panic"), Err(GaveWay));
        assert!(!second.is_finished());
        second.abort();
        assert!(second.await.is_err());
        assert!(all.lock().open.is_empty(), "nothing is left");
    }
}

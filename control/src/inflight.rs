//! The closable counter: how many requests are inside one slot of one table, and whether a further one may enter.
//!
//! Owns the count, the closing and the cutting of tunnels. Does not decide when to close: the driver does, and waits
//! for the count to reach zero. Every published table brings new counters, so a request that loaded an older table
//! finds its counter closed, loads again, and is never counted in a place where nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

/// Counts the requests in one slot of one table.
///
/// `Open => Closed`, once and for ever. While it is closed nobody enters; those inside leave by dropping their
/// [`Entry`]. Memory: two words and a watch channel, whatever the count.
#[derive(Debug)]
pub struct Inflight {
    /// The top bit says closed, the rest counts. One word, so that "not closed" and "one more" are one step.
    state: AtomicU64,
    tunnels: AtomicUsize,
    emptied: Notify,
    cut: watch::Sender<bool>,
    opened: Instant,
    /// Microseconds from `opened` to the first entry, plus one; 0 while nobody has entered.
    first_entry_us: AtomicU64,
}

impl Default for Inflight {
    fn default() -> Self {
        Inflight {
            state: AtomicU64::new(0),
            tunnels: AtomicUsize::new(0),
            emptied: Notify::new(),
            cut: watch::Sender::new(false),
            opened: Instant::now(),
            first_entry_us: AtomicU64::new(0),
        }
    }
}

impl Inflight {
    /// A counter that is open and empty.
    pub fn new() -> Arc<Inflight> {
        Arc::default()
    }

    /// Counts one request in; `None` when the counter is closed, and the caller has to load the table again.
    pub fn enter(self: &Arc<Self>) -> Option<Entry> {
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            if seen & CLOSED != 0 {
                return None;
            }
            match self.state.compare_exchange_weak(
                seen,
                seen + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        if self.first_entry_us.load(Ordering::Relaxed) == 0 {
            self.note_first_entry();
        }
        Some(Entry {
            inflight: Arc::clone(self),
            is_tunnel: false,
        })
    }

    /// Lets nobody in any more. Idempotent.
    pub fn close(&self) {
        let before = self.state.fetch_or(CLOSED, Ordering::AcqRel);
        if before & !CLOSED == 0 {
            self.emptied.notify_waiters();
        }
    }

    /// Whether [`Inflight::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Requests and tunnels inside.
    pub fn count(&self) -> usize {
        usize::try_from(self.state.load(Ordering::Acquire) & !CLOSED).unwrap_or(usize::MAX)
    }

    /// Those inside that are tunnels: `tunnels() <= count()`.
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Acquire)
    }

    /// Waits until the counter is closed and nobody is inside.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; call it again.
    pub async fn drained(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Registered before the state is read, so that a wake-up between the two is not missed.
            emptied.as_mut().enable();
            if self.state.load(Ordering::Acquire) == CLOSED {
                return;
            }
            emptied.await;
        }
    }

    /// Tells every tunnel inside, and those that are still to become one, to close now. Returns how many were told.
    pub fn cut_tunnels(&self) -> usize {
        // Counted first: a tunnel that is told may be gone before this returns.
        let told = self.tunnels();
        self.cut.send_replace(true);
        told
    }

    /// Time from the making of this counter, just before its table was published, to the first request that entered.
    pub fn first_entry(&self) -> Option<Duration> {
        match self.first_entry_us.load(Ordering::Acquire) {
            0 => None,
            us => Some(Duration::from_micros(us - 1)),
        }
    }

    fn note_first_entry(&self) {
        let us = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        // A loss of this race is right: the other one was first.
        self.first_entry_us
            .compare_exchange(0, us + 1, Ordering::AcqRel, Ordering::Relaxed)
            .ok();
    }

    fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        if before == CLOSED | 1 {
            self.emptied.notify_waiters();
        }
    }
}

const CLOSED: u64 = 1 << 63;

// === impl Entry ===

/// One request's place in an [`Inflight`]; it leaves when this is dropped.
#[derive(Debug)]
pub struct Entry {
    inflight: Arc<Inflight>,
    is_tunnel: bool,
}

impl Entry {
    /// From here on this request counts as a tunnel as well.
    pub fn become_tunnel(&mut self) {
        if !self.is_tunnel {
            self.is_tunnel = true;
            self.inflight.tunnels.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Resolves when the tunnels of this slot are to be closed. Does not keep the entry.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub fn until_cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut cut = self.inflight.cut.subscribe();
        async move {
            // When the counter is gone, so is every reason to cut; its tunnels ended in another way.
            if cut.wait_for(|is_cut| *is_cut).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the slot was closed after this request entered.
    pub fn is_closing(&self) -> bool {
        self.inflight.is_closed()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.is_tunnel {
            self.inflight.tunnels.fetch_sub(1, Ordering::AcqRel);
        }
        self.inflight.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_counter_lets_nobody_in_and_still_counts_those_inside() {
        let inflight = Inflight::new();
        let first = inflight.enter().expect("open");
        inflight.close();
        assert!(inflight.enter().is_none());
        assert_eq!(inflight.count(), 1);
        assert!(first.is_closing());
        drop(first);
        assert_eq!(inflight.count(), 0);
    }

    #[test]
    fn a_tunnel_is_counted_twice_over_and_leaves_both() {
        let inflight = Inflight::new();
        let mut entry = inflight.enter().expect("open");
        entry.become_tunnel();
        entry.become_tunnel();
        assert_eq!((inflight.count(), inflight.tunnels()), (1, 1));
        assert_eq!(inflight.cut_tunnels(), 1);
        drop(entry);
        assert_eq!((inflight.count(), inflight.tunnels()), (0, 0));
    }

    #[test]
    fn the_first_entry_is_noted_once() {
        let inflight = Inflight::new();
        assert_eq!(inflight.first_entry(), None);
        drop(inflight.enter());
        let first = inflight.first_entry();
        assert!(first.is_some());
        drop(inflight.enter());
        assert_eq!(inflight.first_entry(), first);
    }

    #[tokio::test]
    async fn drained_waits_for_the_last_one_out() {
        let inflight = Inflight::new();
        let entry = inflight.enter().expect("open");
        inflight.close();
        let waiter = tokio::spawn({
            let inflight = Arc::clone(&inflight);
            async move { inflight.drained().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(entry);
        waiter.await.expect("drained");
    }

    #[tokio::test]
    async fn an_empty_counter_is_drained_when_it_is_closed() {
        let inflight = Inflight::new();
        inflight.close();
        inflight.drained().await;
    }

    #[tokio::test]
    async fn a_tunnel_that_starts_after_the_cut_is_cut_at_once() {
        let inflight = Inflight::new();
        let entry = inflight.enter().expect("open");
        inflight.cut_tunnels();
        entry.until_cut().await;
    }
}

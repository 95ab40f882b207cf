//! A room with places and a queue before its door: how many requests an upstream serves at once.
//!
//! Owns counting and waiting. Who waits is let in first come, first served; a newcomer does not overtake the queue. How
//! many places there are is said by each that enters, so that a reload needs nothing here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The room of one upstream.
#[derive(Debug)]
pub struct Room {
    /// Fair: who waits is served in turn.
    free: Arc<Semaphore>,
    /// As many places as the last one that entered said.
    places: Mutex<usize>,
    /// Places that are still taken and are to vanish when they are left: the room shrank.
    surplus: AtomicUsize,
    inside: AtomicUsize,
    waiting: AtomicUsize,
}

/// How many the room holds and how many may wait for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomLimits {
    /// Places.
    pub places: usize,
    /// The next one is turned away.
    pub waiting_max: usize,
    /// For one that waits.
    pub wait_max: Duration,
}

/// Why there was no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// The queue is full.
    QueueFull,
    /// It waited its time.
    TimedOut,
}

/// A place in the room, left when it is dropped.
#[derive(Debug)]
pub struct Place {
    room: Arc<Room>,
    permit: Option<OwnedSemaphorePermit>,
}

// === impl Room ===

impl Default for Room {
    fn default() -> Room {
        Room {
            free: Arc::new(Semaphore::new(0)),
            places: Mutex::new(0),
            surplus: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Room {
    /// Enters if there is a place and nobody waits for it.
    pub fn try_enter(self: &Arc<Room>, places: usize) -> Option<Place> {
        self.resize(places);
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(self.place(permit))
    }

    /// Enters, now or after a wait.
    ///
    /// # Errors
    /// See [`NoPlace`].
    ///
    /// # Cancel safety
    /// A dropped future has left the queue; a place that was about to be its goes to the next.
    pub async fn enter(self: &Arc<Room>, limits: RoomLimits) -> Result<Place, NoPlace> {
        if let Some(place) = self.try_enter(limits.places) {
            return Ok(place);
        }
        let Some(_waiting) = Waiting::count(self, limits.waiting_max) else {
            return Err(NoPlace::QueueFull);
        };
        let turn = Arc::clone(&self.free).acquire_owned();
        match tokio::time::timeout(limits.wait_max, turn).await {
            Ok(Ok(permit)) => Ok(self.place(permit)),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(NoPlace::TimedOut),
        }
    }

    /// How many are inside and how many wait.
    pub fn count(&self) -> (usize, usize) {
        (
            self.inside.load(Ordering::Acquire),
            self.waiting.load(Ordering::Acquire),
        )
    }

    fn place(self: &Arc<Room>, permit: OwnedSemaphorePermit) -> Place {
        self.inside.fetch_add(1, Ordering::AcqRel);
        Place {
            room: Arc::clone(self),
            permit: Some(permit),
        }
    }

    fn resize(&self, wanted: usize) {
        // A panic cannot leave a half-written number.
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = wanted.min(Semaphore::MAX_PERMITS);
        if *places < wanted {
            let mut more = wanted - *places;
            while more > 0 && self.take_surplus() {
                more -= 1;
            }
            self.free.add_permits(more);
        } else if *places > wanted {
            let fewer = *places - wanted;
            let gone = self.free.forget_permits(fewer);
            self.surplus.fetch_add(fewer - gone, Ordering::AcqRel);
        }
        *places = wanted;
    }

    fn take_surplus(&self) -> bool {
        self.surplus
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| {
                surplus.checked_sub(1)
            })
            .is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.inside.fetch_sub(1, Ordering::AcqRel);
        if let Some(permit) = self.permit.take()
            && self.room.take_surplus()
        {
            permit.forget();
        }
    }
}

/// One that waits, for as long as it does.
struct Waiting<'a>(&'a Room);

impl<'a> Waiting<'a> {
    fn count(room: &'a Room, max: usize) -> Option<Waiting<'a>> {
        room.waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < max).then_some(waiting + 1)
            })
            .ok()
            .map(|_| Waiting(room))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RoomLimits = RoomLimits {
        places: 2,
        waiting_max: 2,
        wait_max: Duration::from_secs(5),
    };

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_enter_in_their_order_when_others_leave() {
        let room = Arc::new(Room::default());
        let first = room.enter(LIMITS).await.expect("a place");
        let second = room.enter(LIMITS).await.expect("a place");
        let (log, mut entered) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for name in ["third", "fourth"] {
            let (room, log) = (Arc::clone(&room), log.clone());
            tasks.push(tokio::spawn(async move {
                let place = room.enter(LIMITS).await;
                log.send(name).expect("the test listens");
                place
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(room.count(), (2, 2));
        assert_eq!(room.enter(LIMITS).await.err(), Some(NoPlace::QueueFull));
        drop(first);
        assert_eq!(entered.recv().await, Some("third"));
        drop(second);
        assert_eq!(entered.recv().await, Some("fourth"));
        for task in tasks {
            drop(task.await.expect("no panic").expect("a place"));
        }
        assert_eq!(room.count(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_deadline_and_leaves_nothing_behind() {
        let room = Arc::new(Room::default());
        let held = [
            room.enter(LIMITS).await.expect("a place"),
            room.enter(LIMITS).await.expect("a place"),
        ];
        assert_eq!(room.enter(LIMITS).await.err(), Some(NoPlace::TimedOut));
        assert_eq!(room.count(), (2, 0));
        drop(held);
        assert_eq!(room.count(), (0, 0));
        room.enter(LIMITS).await.expect("a place");
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_gives_up_does_not_take_the_place_of_the_next() {
        let room = Arc::new(Room::default());
        let first = room.enter(LIMITS).await.expect("a place");
        let _second = room.enter(LIMITS).await.expect("a place");
        let waiting = |room: &Arc<Room>| {
            let room = Arc::clone(room);
            tokio::spawn(async move { room.enter(LIMITS).await.is_ok() })
        };
        let third = waiting(&room);
        tokio::task::yield_now().await;
        let fourth = waiting(&room);
        tokio::task::yield_now().await;
        // The third is woken by the place and gone before it takes it.
        drop(first);
        third.abort();
        assert!(fourth.await.expect("no panic"));
        assert!(third.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_grows_and_shrinks_with_what_those_who_enter_say() {
        let room = Arc::new(Room::default());
        let one = RoomLimits {
            places: 1,
            ..LIMITS
        };
        let held = [
            room.enter(LIMITS).await.expect("a place"),
            room.enter(LIMITS).await.expect("a place"),
        ];
        assert_eq!(room.enter(one).await.err(), Some(NoPlace::TimedOut));
        let [first, second] = held;
        drop(first);
        assert_eq!(room.enter(one).await.err(), Some(NoPlace::TimedOut));
        drop(second);
        let only = room.enter(one).await.expect("a place");
        assert_eq!(room.enter(one).await.err(), Some(NoPlace::TimedOut));
        let other = room.enter(LIMITS).await.expect("a place");
        assert_eq!(room.count(), (2, 0));
        drop((only, other));
        assert_eq!(room.count(), (0, 0));
    }
}

//! Messages that have come and are not leased yet.
//!
//! A message of a subscription at its cap stays here while that is for a moment: others pass it by.
//! When too many wait like that they go back to the store, so that they neither keep out what
//! could go nor run in circles through the broker.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lapin::Acker;
use tokio::sync::Notify;

use crate::domain::clock::Timestamp;
use crate::store::{Caps, Queued, Traffic};

/// What part of a claim is for replays while there is live traffic.
const REPLAY_PART: usize = 8;

/// A message that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) queued: Queued,
    pub(super) acker: Acker,
    pub(super) traffic: Traffic,
}

/// What was taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// To be leased.
    pub(super) told: Vec<Told>,
    /// To go back to the store.
    pub(super) held_back: Vec<Told>,
    /// When the next one that has come early is due.
    pub(super) next_due: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Waiting {
    live: VecDeque<Told>,
    replays: VecDeque<Told>,
}

/// The messages.
#[derive(Debug)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    /// Messages that may wait for their subscription's room.
    held_max: usize,
}

impl Inbox {
    pub(super) fn new(held_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            held_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, told: Told) {
        let mut waiting = self.lock();
        match told.traffic {
            Traffic::Live => waiting.live.push_back(told),
            Traffic::Replays => waiting.replays.push_back(told),
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// The broker is away: it hands them out again.
    pub(super) fn clear(&self) {
        *self.lock() = Waiting::default();
    }

    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.live.is_empty() && waiting.replays.is_empty()
    }

    pub(super) fn len(&self, traffic: Traffic) -> usize {
        let waiting = self.lock();
        match traffic {
            Traffic::Live => waiting.live.len(),
            Traffic::Replays => waiting.replays.len(),
        }
    }

    /// Waits until a message comes.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// They could not be leased just now.
    pub(super) fn put_back(&self, told: Vec<Told>) {
        let mut waiting = self.lock();
        for told in told.into_iter().rev() {
            match told.traffic {
                Traffic::Live => waiting.live.push_front(told),
                Traffic::Replays => waiting.replays.push_front(told),
            }
        }
    }

    /// Takes up to `limit` that are due at `now` and have room under `caps`: replays their part,
    /// and what live traffic leaves.
    pub(super) fn take(&self, limit: usize, caps: Caps, now: Timestamp) -> Taken {
        let mut room = caps;
        let mut waiting = self.lock();
        let Waiting { live, replays } = &mut *waiting;
        let mut taken = Taken::default();
        let part = limit.div_ceil(REPLAY_PART);
        taken.draw(replays, part, &mut room, now);
        taken.draw(live, limit, &mut room, now);
        taken.draw(replays, limit, &mut room, now);
        if taken.told.len() < limit {
            // Everything was looked at.
            for queue in [live, replays] {
                let excess = queue.len().saturating_sub(self.held_max);
                taken.held_back.extend(queue.drain(..excess));
            }
        }
        taken
    }
}

impl Taken {
    /// Takes from `queue` until there are `limit` in all.
    fn draw(&mut self, queue: &mut VecDeque<Told>, limit: usize, room: &mut Caps, now: Timestamp) {
        let mut passed_over = VecDeque::new();
        while self.told.len() < limit
            && let Some(told) = queue.pop_front()
        {
            if told.queued.due > now {
                let due = told.queued.due;
                self.next_due = Some(self.next_due.map_or(due, |other| other.min(due)));
                passed_over.push_back(told);
                continue;
            }
            match room.get_mut(&told.queued.subscription_id) {
                Some(0) => passed_over.push_back(told),
                Some(left) => {
                    *left -= 1;
                    self.told.push(told);
                }
                None => self.told.push(told),
            }
        }
        passed_over.append(queue);
        *queue = passed_over;
    }
}

#[cfg(test)]
mod tests {
    use lapin::message::Delivery;

    use super::*;
    use crate::domain::id::{IdGenerator, SubscriptionId};

    const NOW: Timestamp = Timestamp(1_000);

    fn told(subscription_id: SubscriptionId, traffic: Traffic, due: i64) -> Told {
        let ids = IdGenerator::default();
        Told {
            queued: Queued {
                id: ids.next(NOW, || 5),
                subscription_id,
                due: Timestamp(due),
            },
            acker: Delivery::mock(1, "".into(), "".into(), false, Vec::new()).acker,
            traffic,
        }
    }

    fn subscriptions() -> (SubscriptionId, SubscriptionId) {
        let ids = IdGenerator::default();
        (ids.next(NOW, || 1), ids.next(NOW, || 2))
    }

    fn of(taken: &Taken, id: SubscriptionId) -> usize {
        let mine = |told: &&Told| told.queued.subscription_id == id;
        taken.told.iter().filter(mine).count()
    }

    #[test]
    fn one_at_its_cap_is_passed_by_and_goes_back_when_too_many_wait() {
        let (full, other) = subscriptions();
        let inbox = Inbox::new(2);
        for id in [full, full, full, other, full] {
            inbox.push(told(id, Traffic::Live, 0));
        }
        let taken = inbox.take(10, [(full, 1)].into(), NOW);
        assert_eq!((of(&taken, full), of(&taken, other)), (1, 1));
        assert_eq!(taken.held_back.len(), 1, "three wait, two may");
        let taken = inbox.take(10, [(full, 0)].into(), NOW);
        assert_eq!((taken.told.len(), taken.held_back.len()), (0, 0));
        assert_eq!(inbox.take(10, Caps::new(), NOW).told.len(), 2);
    }

    #[test]
    fn replays_have_their_part_and_what_is_left() {
        let (one, two) = subscriptions();
        let inbox = Inbox::new(100);
        for _ in 0..20 {
            inbox.push(told(one, Traffic::Replays, 0));
        }
        for _ in 0..20 {
            inbox.push(told(two, Traffic::Live, 0));
        }
        let taken = inbox.take(16, Caps::new(), NOW);
        assert_eq!((of(&taken, one), of(&taken, two)), (2, 14));
        let taken = inbox.take(16, Caps::new(), NOW);
        assert_eq!((of(&taken, one), of(&taken, two)), (10, 6));
    }

    #[test]
    fn what_comes_early_waits_for_its_time() {
        let (one, _) = subscriptions();
        let inbox = Inbox::new(100);
        inbox.push(told(one, Traffic::Live, 1_400));
        inbox.push(told(one, Traffic::Live, 1_200));
        inbox.push(told(one, Traffic::Live, 1_000));
        let taken = inbox.take(10, Caps::new(), NOW);
        assert_eq!(taken.told.len(), 1);
        assert_eq!(taken.next_due, Some(Timestamp(1_200)));
        inbox.put_back(taken.told);
        assert_eq!(inbox.take(10, Caps::new(), Timestamp(1_200)).told.len(), 2);
    }
}

//! Who may take slots: a fair share for each subscription and each provider.
//!
//! Invariant: however many deliveries a destination has and however long it takes, the others
//! find free slots. A subscription may have as many calls under way as there are slots left free
//! (the dynamic threshold of Choudhury and Hahne, 1998): alone it gets half of them, and the more
//! are crowded, the less each gets, but never all.
//!
//! A provider with twice as many calls under way as there are free slots is crowded too: each of
//! its subscriptions then has a quarter of the usual share, so that a destination that stalls does
//! not keep the provider from the others, and the last eighth of the slots is for other providers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::clock::Clock;
use crate::domain::id::SubscriptionId;
use crate::domain::provider::ProviderId;
use crate::queue::Queue;
use crate::store::Caps;

/// A provider is crowded with so many calls under way for each free slot.
const PROVIDER_WEIGHT: usize = 2;
/// What part of its share a subscription of a crowded provider has.
const CROWDED_PART: usize = 4;
/// What part of the slots is for others than a crowded provider.
const RESERVED_PART: usize = 8;

/// Counts deliveries under way, and says who has its share.
#[derive(Debug)]
pub(super) struct Shares {
    counts: Mutex<Counts>,
    slots: usize,
    per_subscription_max: usize,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_subscription: HashMap<SubscriptionId, (ProviderId, usize)>,
    by_provider: HashMap<ProviderId, usize>,
    /// Who was near its share when that was asked for, until it was said that there is room.
    limited: HashSet<SubscriptionId>,
    /// Whose subscriptions were passed over, until it was said that there is room.
    closed: HashMap<ProviderId, Vec<SubscriptionId>>,
}

/// What may be taken when work is claimed.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Of subscriptions that are near their share.
    pub(super) caps: Caps,
    /// Of these nothing.
    pub(super) closed: HashSet<ProviderId>,
}

impl Shares {
    /// Shares `slots`; no subscription gets more than `per_subscription_max`.
    pub(super) fn new(slots: usize, per_subscription_max: usize) -> Self {
        Self {
            counts: Mutex::default(),
            slots,
            per_subscription_max,
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much to claim at once: all of it may be for one subscription, which has its share then.
    pub(super) fn claim_max(&self) -> usize {
        let counts = self.counts();
        let free = self.slots.saturating_sub(counts.all);
        let mut providers = counts.by_provider.keys();
        let part = match providers.any(|provider| self.is_crowded(&counts, provider)) {
            true => CROWDED_PART,
            false => 2,
        };
        free.div_ceil(part).min(self.per_subscription_max).max(1)
    }

    pub(super) fn take(&self, subscription: SubscriptionId, provider: &ProviderId) {
        let mut counts = self.counts();
        counts.all += 1;
        let of_subscription = counts.by_subscription.entry(subscription);
        of_subscription.or_insert_with(|| (provider.clone(), 0)).1 += 1;
        *counts.by_provider.entry(provider.clone()).or_default() += 1;
    }

    /// A call has ended. Returns who was at its share and has room again.
    pub(super) fn give_back(
        &self,
        subscription: SubscriptionId,
        provider: &ProviderId,
    ) -> Vec<SubscriptionId> {
        let mut counts = self.counts();
        counts.all = counts.all.saturating_sub(1);
        if let Some((_, count)) = counts.by_subscription.get_mut(&subscription) {
            *count -= 1;
            if *count == 0 {
                counts.by_subscription.remove(&subscription);
            }
        }
        if let Some(count) = counts.by_provider.get_mut(provider) {
            *count -= 1;
            if *count == 0 {
                counts.by_provider.remove(provider);
            }
        }
        // One that ends makes room for the others as well.
        let mut limited = std::mem::take(&mut counts.limited);
        let mut closed = std::mem::take(&mut counts.closed);
        let is_limited = |id: &SubscriptionId| {
            let known = counts.by_subscription.get(id);
            known.is_some_and(|(provider, count)| near(*count, self.share(&counts, provider)))
        };
        let mut room: Vec<SubscriptionId> = limited.extract_if(|id| !is_limited(id)).collect();
        let opened = closed.extract_if(|provider, _| !self.is_closed_to(&counts, provider));
        room.extend(opened.flat_map(|(_, subscriptions)| subscriptions));
        (counts.limited, counts.closed) = (limited, closed);
        room
    }

    fn free(&self, counts: &Counts) -> usize {
        self.slots.saturating_sub(counts.all).max(1)
    }

    fn is_crowded(&self, counts: &Counts, provider: &ProviderId) -> bool {
        let count = counts.by_provider.get(provider).copied().unwrap_or(0);
        count >= self.free(counts).saturating_mul(PROVIDER_WEIGHT)
    }

    /// Whether `provider` is so crowded that what is left is for others.
    fn is_closed_to(&self, counts: &Counts, provider: &ProviderId) -> bool {
        self.free(counts) <= self.slots / RESERVED_PART && self.is_crowded(counts, provider)
    }

    /// Slots that one subscription of `provider` may have now.
    fn share(&self, counts: &Counts, provider: &ProviderId) -> usize {
        let part = match self.is_crowded(counts, provider) {
            true => CROWDED_PART,
            false => 1,
        };
        (self.free(counts) / part).clamp(1, self.per_subscription_max.max(1))
    }

    /// What may be taken now.
    pub(super) fn left(&self) -> Left {
        let mut counts = self.counts();
        let mut left = Left::default();
        for (id, (provider, count)) in &counts.by_subscription {
            let share = self.share(&counts, provider);
            if near(*count, share) {
                left.caps.insert(*id, share.saturating_sub(*count));
            }
        }
        let providers = counts.by_provider.keys();
        left.closed = providers
            .filter(|provider| self.is_closed_to(&counts, provider))
            .cloned()
            .collect();
        // Who was limited before and is not any more may have been so by a claim.
        counts.limited.extend(left.caps.keys());
        left
    }

    /// `subscriptions` of `provider` were passed over, as it is closed to them.
    pub(super) fn passed_over(&self, provider: ProviderId, subscriptions: Vec<SubscriptionId>) {
        self.counts().closed.insert(provider, subscriptions);
    }
}

/// Who has so much of its share is told of room only when it has less: not at every single call that
/// ends, so that claims stay large.
fn near(count: usize, share: usize) -> bool {
    count > share * 3 / 4
}

/// How many deliveries at one time, and of whom.
pub(super) struct Places {
    /// Calls under way.
    pub(super) slots: Arc<Semaphore>,
    pub(super) shares: Arc<Shares>,
    /// Results on their way into the store, as many as there are slots: a call that ends leaves its slot
    /// to another one, unless the store does not keep up.
    results: Arc<Semaphore>,
}

impl Places {
    /// As [`Shares::new`].
    pub(super) fn new(slots: usize, per_subscription_max: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            shares: Arc::new(Shares::new(slots, per_subscription_max)),
            results: Arc::new(Semaphore::new(slots)),
        }
    }

    /// Waits until nothing is under way.
    pub(super) async fn all_free(&self) {
        let all = u32::try_from(self.shares.slots).unwrap_or(u32::MAX);
        for places in [&self.slots, &self.results] {
            let _ = places.acquire_many(all).await;
        }
    }

    /// For a delivery to `subscription` through `provider` that sets out.
    pub(super) fn take(
        &self,
        slot: OwnedSemaphorePermit,
        queue: &Arc<dyn Queue>,
        clock: &Arc<dyn Clock>,
        (subscription, provider): (SubscriptionId, &ProviderId),
    ) -> Place {
        self.shares.take(subscription, provider);
        Place {
            _slot: slot,
            shares: self.shares.clone(),
            results: self.results.clone(),
            queue: queue.clone(),
            clock: clock.clone(),
            subscription,
            provider: provider.clone(),
        }
    }
}

/// A delivery's slot, and its part of its subscription's share: from when it sets out until its call
/// has ended. The result on its way into the store is nothing that a destination has to answer for.
pub(super) struct Place {
    _slot: OwnedSemaphorePermit,
    shares: Arc<Shares>,
    results: Arc<Semaphore>,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    subscription: SubscriptionId,
    provider: ProviderId,
}

impl Place {
    /// The call has ended: a place for its result instead.
    pub(super) async fn for_result(self) -> Option<OwnedSemaphorePermit> {
        self.results.clone().acquire_owned().await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let room = self.shares.give_back(self.subscription, &self.provider);
        if !room.is_empty() {
            self.queue.room_again(&room, self.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use ulid::Ulid;

    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::delivery::LeaseResult;
    use crate::queue::conformance::ManualClock;
    use crate::queue::{Batch, Room};
    use crate::store::{Recorded, StoreError};

    const SLOTS: usize = 64;

    fn subscription(n: u128) -> SubscriptionId {
        Ulid(n).into()
    }

    fn provider(name: &str) -> ProviderId {
        ProviderId::parse(name).expect("an id")
    }

    /// Claims for a subscription with endless work, until it is passed over; how much it got.
    fn flood(shares: &Shares, n: u128, name: &str) -> usize {
        let (id, provider) = (subscription(n), provider(name));
        let mut taken = 0;
        loop {
            let left = shares.left();
            let cap = left.caps.get(&id).copied().unwrap_or(usize::MAX);
            if cap == 0 || left.closed.contains(&provider) {
                return taken;
            }
            for _ in 0..shares.claim_max().min(cap) {
                shares.take(id, &provider);
                taken += 1;
            }
        }
    }

    #[test]
    fn one_flood_gets_half_and_several_leave_room_for_another() {
        let shares = Shares::new(SLOTS, SLOTS);
        let first = flood(&shares, 1, "a");
        assert!((SLOTS / 2..SLOTS * 5 / 8).contains(&first), "{first}");
        for n in 2..5 {
            assert!(flood(&shares, n, &format!("b{n}")) > 0, "{n}");
        }
        assert!(shares.counts().all < SLOTS, "never all");
        assert!(flood(&shares, 9, "c") > 0, "and still a slot");
    }

    #[test]
    fn a_provider_leaves_room_however_many_subscriptions_it_has() {
        let shares = Shares::new(SLOTS, SLOTS);
        let taken: usize = (0..1_000).map(|n| flood(&shares, n, "a")).sum();
        assert!(taken < SLOTS, "{taken}");
        assert!(flood(&shares, 2_000, "b") > 0);
    }

    #[test]
    fn a_flood_does_not_keep_its_provider_from_others() {
        let shares = Shares::new(SLOTS, SLOTS);
        for n in 0..3 {
            flood(&shares, n, "a");
        }
        assert!(flood(&shares, 9, "a") > 0);
    }

    #[test]
    fn the_configured_maximum_holds() {
        let shares = Shares::new(SLOTS, 1);
        flood(&shares, 1, "a");
        assert_eq!(shares.left().caps, [(subscription(1), 0)].into());
    }

    /// A queue that nobody claims from.
    struct Idle;

    #[async_trait]
    impl Queue for Idle {
        async fn next(&self, _: usize, _: &(dyn Fn() -> Room + Sync)) -> Result<Batch, StoreError> {
            std::future::pending().await
        }

        async fn settle(&self, _: LeaseResult) -> Result<Recorded, StoreError> {
            Ok(Recorded::Written)
        }

        fn wake(&self, _: Timestamp) {}
    }

    #[tokio::test]
    async fn a_call_that_has_ended_leaves_its_slot_while_results_have_places() {
        let places = Places::new(2, 2);
        let queue: Arc<dyn Queue> = Arc::new(Idle);
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new());
        let (id, provider) = (subscription(1), provider("a"));
        let set_out = || {
            let slot = places.slots.clone().try_acquire_owned().ok()?;
            Some(places.take(slot, &queue, &clock, (id, &provider)))
        };
        let (one, other) = (set_out().expect("a slot"), set_out().expect("a slot"));
        assert!(set_out().is_none());
        let first = one.for_result().await.expect("a place");
        let third = set_out().expect("the slot of the first");
        let second = other.for_result().await.expect("a place");
        let mut waiting = Box::pin(third.for_result());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(places.slots.available_permits(), 1, "its slot is kept");
        drop(first);
        let third = waiting.await.expect("a place");
        drop((second, third));
        let none_left = tokio::time::timeout(std::time::Duration::from_secs(5), places.all_free());
        none_left.await.expect("all places are free");
    }

    #[test]
    fn room_is_told_of_once_and_only_to_who_was_passed_over() {
        let shares = Shares::new(8, 8);
        let a = provider("a");
        shares.take(subscription(1), &a);
        let room = shares.give_back(subscription(1), &a);
        assert!(room.is_empty(), "nobody waits");
        let taken = flood(&shares, 1, "a");
        let told: Vec<_> = (0..taken)
            .flat_map(|_| shares.give_back(subscription(1), &a))
            .collect();
        assert_eq!(told, [subscription(1)]);
        let counts = shares.counts();
        assert_eq!((counts.all, counts.by_subscription.len()), (0, 0));
    }

    #[test]
    fn who_was_not_passed_over_tells_of_no_room() {
        let shares = Shares::new(SLOTS, SLOTS);
        let (full, other) = (provider("a"), provider("b"));
        let taken = flood(&shares, 1, "a");
        shares.take(subscription(2), &other);
        assert_eq!(shares.left().caps, [(subscription(1), 0)].into());
        assert!(shares.give_back(subscription(2), &other).is_empty());
        let told = (0..taken).position(|_| !shares.give_back(subscription(1), &full).is_empty());
        assert!(told.is_some_and(|ended| ended > 0), "{told:?}");
    }
}

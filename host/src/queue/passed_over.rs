//! Whose due deliveries the last look at the store left there for want of room. When others have room
//! again, there is nothing to look for.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::id::SubscriptionId;
use crate::store::{Caps, Claim};

#[derive(Debug, Default)]
pub(super) struct PassedOver(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// One is under way, or its end was not heard of.
    is_looking: bool,
    /// By the last one.
    by_look: HashSet<SubscriptionId>,
    /// Written since it began, while nothing of them might go.
    written: HashSet<SubscriptionId>,
}

impl PassedOver {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look begins: until it has ended, it may pass over anybody.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.is_looking = true;
        state.written.clear();
    }

    /// The look ended with `claim`, which was made with `caps`.
    pub(super) fn end(&self, caps: &Caps, claim: &Claim) {
        let mut state = self.state();
        state.is_looking = false;
        state.by_look.clear();
        if !claim.held_back {
            return;
        }
        let has_its_cap = |(id, cap): &(&SubscriptionId, &usize)| {
            let leased = claim.leased.iter();
            leased.filter(|one| one.subscription_id == **id).count() >= **cap
        };
        let at_cap = caps.iter().filter(has_its_cap);
        state.by_look.extend(at_cap.map(|(id, _)| *id));
    }

    /// Deliveries of these were written, and none of them may go.
    pub(super) fn add(&self, subscriptions: &[SubscriptionId]) {
        self.state().written.extend(subscriptions);
    }

    /// Whether some of these may have been passed over.
    pub(super) fn has_any(&self, subscriptions: &[SubscriptionId]) -> bool {
        let state = self.state();
        let mut ids = subscriptions.iter();
        state.is_looking || ids.any(|id| state.by_look.contains(id) || state.written.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;
    use crate::store::CatalogEpoch;

    #[test]
    fn who_had_room_and_nothing_due_was_not_passed_over() {
        let [full, roomy, late]: [SubscriptionId; 3] = [1, 2, 3].map(|n| Ulid(n).into());
        let caps: Caps = [(full, 0), (roomy, 3)].into();
        let claim = |held_back| Claim {
            leased: Vec::new(),
            next_due: None,
            held_back,
            epoch: CatalogEpoch::default(),
            is_doubtful: false,
        };
        let passed_over = PassedOver::default();
        passed_over.begin();
        assert!(passed_over.has_any(&[roomy]), "nobody knows yet");
        passed_over.add(&[late]);
        passed_over.end(&caps, &claim(true));
        assert!(passed_over.has_any(&[roomy, full]));
        assert!(!passed_over.has_any(&[roomy]));
        assert!(passed_over.has_any(&[late]), "the look may have missed it");
        passed_over.begin();
        passed_over.end(&caps, &claim(false));
        assert!(!passed_over.has_any(&[full, roomy, late]));
    }
}

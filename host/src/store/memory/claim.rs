//! Claims, by the same rules as over a database: the oldest first, no more of a subscription than
//! its cap, nothing before the earlier ones of its ordering key, and by subscription in turn when
//! the oldest are held back.

use std::collections::BTreeMap;

use super::defect::Defect;
use super::journal::Why;
use super::tables::{Row, Tables};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{DeliveryState, FencingToken, LeasedDelivery};
use crate::domain::id::{DeliveryId, SubscriptionId};
use crate::domain::job::{JobOrigin, JobQueue, Trigger};
use crate::store::{Caps, CatalogEpoch, Claim, ClaimRequest};

/// Due deliveries that are looked at before subscriptions are.
const WINDOW: usize = 32;

impl Tables {
    pub(crate) fn claim(&mut self, request: &ClaimRequest) -> Claim {
        let room = match self.has(Defect::ForgetsCaps) {
            true => Caps::new(),
            false => request.caps.clone(),
        };
        let (mut ids, more) = self.pick(request, room);
        ids.sort_unstable();
        let leased = ids
            .into_iter()
            .filter_map(|id| self.lease(id, request))
            .collect();
        let due = |row: &&Row| row.is_due(request.now);
        let held_back = self.rows.values().any(|row| due(&row));
        let next_due = if more && held_back {
            Some(request.now)
        } else {
            let later = self.rows.values().filter(|row| !due(row));
            later.filter_map(|row| row.delivery.due_at).min()
        };
        Claim {
            leased,
            next_due,
            held_back,
            epoch: CatalogEpoch(self.epoch),
            is_doubtful: false,
        }
    }

    /// What the claim takes, and whether there may be more for it.
    fn pick(&mut self, request: &ClaimRequest, mut room: Caps) -> (Vec<DeliveryId>, bool) {
        let due = self.due(request.now);
        let window = &due[..due.len().min(WINDOW.max(request.limit))];
        let mut oldest: Vec<DeliveryId> = window
            .iter()
            .map(|(_, id)| *id)
            .filter(|id| room.get(&self.lane_of(*id)) != Some(&0) && self.is_in_order(*id))
            .collect();
        let more = oldest.len() >= request.limit || due.len() > window.len();
        oldest.truncate(request.limit);
        oldest.retain(|id| take(&mut room, self.lane_of(*id)));
        if more && oldest.is_empty() {
            return self.by_lane(request, &due, room);
        }
        (oldest, more)
    }

    /// Of each subscription in turn, beginning after the one that the last such claim ended with.
    fn by_lane(
        &mut self,
        request: &ClaimRequest,
        due: &[(Timestamp, DeliveryId)],
        mut room: Caps,
    ) -> (Vec<DeliveryId>, bool) {
        let mut lanes: BTreeMap<SubscriptionId, Vec<DeliveryId>> = BTreeMap::new();
        for (_, id) in due {
            if self.is_in_order(*id) {
                lanes.entry(self.lane_of(*id)).or_default().push(*id);
            }
        }
        let (before, after): (Vec<_>, Vec<_>) = lanes
            .into_iter()
            .partition(|(lane, _)| Some(*lane) <= self.lane);
        let share = (request.limit * 2).div_ceil((before.len() + after.len()).max(1));
        let (mut picked, mut more) = (Vec::new(), false);
        for (lane, ids) in after.into_iter().chain(before) {
            let left = request.limit - picked.len();
            if left == 0 {
                more = true;
                break;
            }
            let own: Vec<_> = ids
                .into_iter()
                .take(share.min(left))
                .filter(|_| take(&mut room, lane))
                .collect();
            if !own.is_empty() {
                self.lane = Some(lane);
                more |= own.len() == share.min(left);
                picked.extend(own);
            }
        }
        let more = more && !picked.is_empty();
        (picked, more)
    }

    /// What is due, the oldest first.
    fn due(&self, now: Timestamp) -> Vec<(Timestamp, DeliveryId)> {
        let due = self.rows.iter().filter_map(|(id, row)| {
            let in_flight = row.delivery.state == DeliveryState::InFlight;
            if in_flight && self.has(Defect::LeasesForEver) {
                return None;
            }
            let takes_leased = in_flight && self.has(Defect::ClaimsWhatIsLeased);
            (row.is_due(now) || takes_leased).then_some((row.delivery.due_at?, *id))
        });
        let mut due: Vec<_> = due.collect();
        due.sort_unstable();
        due
    }

    fn lane_of(&self, id: DeliveryId) -> SubscriptionId {
        self.rows[&id].delivery.subscription_id
    }

    fn is_in_order(&self, id: DeliveryId) -> bool {
        let Some(key) = &self.rows[&id].ordering_key else {
            return true;
        };
        let mut earlier = self.rows.range(..id).map(|(_, row)| row);
        self.has(Defect::ForgetsOrder)
            || !earlier.any(|row| row.ordering_key.as_ref() == Some(key) && row.is_open())
    }

    fn lease(&mut self, id: DeliveryId, request: &ClaimRequest) -> Option<LeasedDelivery> {
        let why = Why::Claimed(request.now);
        let lapsed = self.rows.get(&id)?.delivery.state == DeliveryState::InFlight;
        let until = Some(request.lease_until);
        self.shift(id, why, DeliveryState::InFlight, until, request.now);
        let row = self.rows.get_mut(&id)?;
        row.token = FencingToken(row.token.0 + 1);
        row.worker = Some(request.worker);
        if lapsed {
            row.trigger = Trigger::Sweep;
        }
        let event = self.events.get(&row.delivery.event_id)?.clone();
        let subscription_id = row.delivery.subscription_id;
        let key = event.correlation_key.clone();
        let external_id = key.and_then(|key| self.external_ids.get(&(subscription_id, key)));
        Some(LeasedDelivery {
            id,
            token: row.token,
            subscription_id,
            provider: row.delivery.provider.clone(),
            attempt: row.delivery.attempts + 1,
            event,
            external_id: external_id.cloned(),
            job: JobOrigin {
                queue: JobQueue::Store,
                trigger: row.trigger,
                queued_at: row.queued_at,
                worker: request.worker,
            },
        })
    }
}

/// Takes one place of a subscription, where there is one.
fn take(room: &mut Caps, lane: SubscriptionId) -> bool {
    match room.get_mut(&lane) {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}

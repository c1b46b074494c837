//! What a message says: where to look, and when. The store has the rest.

use serde::{Deserialize, Serialize};

use crate::domain::clock::Timestamp;
use crate::domain::id::{DeliveryId, SubscriptionId};
use crate::store::Queued;

/// A message's body, JSON. Fields that are not known are passed over: a newer process may have
/// written it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    delivery: String,
    subscription: String,
    due_ms: i64,
}

pub(super) fn encode(queued: &Queued) -> Vec<u8> {
    let body = Body {
        delivery: queued.id.to_string(),
        subscription: queued.subscription_id.to_string(),
        due_ms: queued.due.0,
    };
    serde_json::to_vec(&body).unwrap_or_default()
}

/// `None`: somebody else's.
pub(super) fn decode(body: &[u8]) -> Option<Queued> {
    let body: Body = serde_json::from_slice(body).ok()?;
    Some(Queued {
        id: body.delivery.parse::<DeliveryId>().ok()?,
        subscription_id: body.subscription.parse::<SubscriptionId>().ok()?,
        due: Timestamp(body.due_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::IdGenerator;

    #[test]
    fn what_was_written_is_read_and_nonsense_is_not() {
        let ids = IdGenerator::default();
        let queued = Queued {
            id: ids.next(Timestamp(7), || 1),
            subscription_id: ids.next(Timestamp(7), || 2),
            due: Timestamp(1_700_000_000_123),
        };
        let mut body = encode(&queued);
        assert_eq!(decode(&body), Some(queued));
        body.pop();
        assert_eq!(decode(&body), None);
        assert_eq!(decode(b"{\"delivery\":\"evt_1\"}"), None);
    }
}

//! What the log says of deliveries: which one, and how each attempt ended.

use crate::domain::clock::rfc3339;
use crate::domain::delivery::{Attempt, LeasedDelivery, Transition};

/// What every line about a delivery carries.
pub(super) fn span(leased: &LeasedDelivery) -> tracing::Span {
    tracing::info_span!(
        "delivery",
        delivery = %leased.id,
        event = %leased.event.id,
        subscription = %leased.subscription_id,
        provider = leased.provider.as_str(),
        attempt = leased.attempt,
    )
}

/// One line about an attempt. Without its message, which may quote what a receiver said: that is
/// on record under the delivery's identifier, for those who may read it.
pub(super) fn tell(attempt: &Attempt, transition: &Transition) {
    let outcome = attempt.outcome.as_str();
    let (http_status, latency_ms) = (attempt.http_status, attempt.latency.as_millis());
    match transition {
        Transition::Success { .. } => {
            tracing::debug!(outcome, http_status, latency_ms, "delivered");
        }
        Transition::RetryAt(at) => {
            let again_at = rfc3339(*at);
            tracing::info!(
                outcome,
                http_status,
                latency_ms,
                again_at,
                "the attempt failed"
            );
        }
        Transition::Failed => {
            tracing::warn!(outcome, http_status, latency_ms, "the delivery is given up");
        }
        Transition::Parked => {
            tracing::info!(
                outcome,
                http_status,
                latency_ms,
                "the attempt failed; held back"
            );
        }
        Transition::Cancelled | Transition::Filtered => {}
    }
}

//! Between rows and domain types.

use std::str::FromStr;
use std::sync::Arc;

use sqlx::Row as _;

use super::dialect::DbRow;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Delivery, DeliveryState, Discarded};
use crate::domain::event::{Event, EventTypeName};
use crate::domain::job::{JobQueue, Trigger};
use crate::domain::provider::ProviderId;
use crate::store::{Result, StoreError};

pub(super) const PENDING: i64 = 0;
pub(super) const RETRYING: i64 = 1;
pub(super) const IN_FLIGHT: i64 = 2;
pub(super) const SUCCESS: i64 = 3;
pub(super) const FAILED: i64 = 4;
pub(super) const CANCELLED: i64 = 5;
pub(super) const FILTERED: i64 = 6;
pub(super) const DISCARDED: i64 = 7;

pub(super) fn state_code(state: DeliveryState) -> i64 {
    match state {
        DeliveryState::Pending => PENDING,
        DeliveryState::Retrying => RETRYING,
        DeliveryState::InFlight => IN_FLIGHT,
        DeliveryState::Success => SUCCESS,
        DeliveryState::Failed => FAILED,
        DeliveryState::Cancelled => CANCELLED,
        DeliveryState::Filtered => FILTERED,
        DeliveryState::Discarded => DISCARDED,
    }
}

pub(super) fn state_of(code: i64) -> Result<DeliveryState> {
    DeliveryState::ALL
        .into_iter()
        .find(|state| state_code(*state) == code)
        .ok_or_else(|| StoreError::Corrupt(format!("deliveries.state holds {code}")))
}

pub(super) fn trigger_code(trigger: Trigger) -> i64 {
    match trigger {
        Trigger::Ingest => 0,
        Trigger::Retry => 1,
        Trigger::Replay => 2,
        Trigger::Sweep => 3,
        Trigger::Manual => 4,
    }
}

pub(super) fn trigger_of(code: i64) -> Result<Trigger> {
    Trigger::ALL
        .into_iter()
        .find(|trigger| trigger_code(*trigger) == code)
        .ok_or_else(|| StoreError::Corrupt(format!("a trigger is {code}")))
}

pub(super) fn queue_code(queue: JobQueue) -> i64 {
    match queue {
        JobQueue::Store => 0,
        JobQueue::Process => 1,
        JobQueue::Replay => 2,
    }
}

pub(super) fn queue_of(code: i64) -> Result<JobQueue> {
    JobQueue::ALL
        .into_iter()
        .find(|queue| queue_code(*queue) == code)
        .ok_or_else(|| StoreError::Corrupt(format!("attempts.queue holds {code}")))
}

pub(super) fn corrupt(what: &str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{what}: {error}"))
}

/// A column that holds the text of a domain type.
pub(super) fn parse<T>(column: &str, text: &str) -> Result<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| corrupt(column, &error))
}

/// A column of a number that is never negative.
pub(super) fn unsigned<T: TryFrom<i64>>(column: &str, value: i64) -> Result<T> {
    T::try_from(value).map_err(|_| StoreError::Corrupt(format!("{column} holds {value}")))
}

pub(super) fn provider(text: &str) -> Result<ProviderId> {
    ProviderId::parse(text).map_err(|error| corrupt("provider", &error))
}

pub(super) fn event_type_name(text: &str) -> Result<EventTypeName> {
    EventTypeName::parse(text).map_err(|error| corrupt("event type", &error))
}

pub(super) fn json<T: serde::de::DeserializeOwned>(column: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(column, &error))
}

/// Columns: id, event_type, payload, occurred_at, received_at, correlation_key, system_ids,
/// trace_parent.
pub(super) fn event_from_row(row: &DbRow) -> Result<Event> {
    let key: Option<&str> = row.try_get(5)?;
    let system_ids: &str = row.try_get(6)?;
    let trace: Option<&str> = row.try_get(7)?;
    Ok(Event {
        id: parse("events.id", row.try_get(0)?)?,
        event_type: event_type_name(row.try_get(1)?)?,
        payload: Arc::from(row.try_get::<&str, _>(2)?),
        occurred_at: Timestamp(row.try_get(3)?),
        received_at: Timestamp(row.try_get(4)?),
        correlation_key: key.map(Arc::from),
        system_ids: if system_ids == "[]" {
            Vec::new()
        } else {
            json("events.system_ids", system_ids)?
        },
        trace: trace
            .map(|text| parse("events.trace_parent", text))
            .transpose()?,
    })
}

pub(super) const DELIVERY_COLUMNS: &str = "id, event_id, event_type, subscription_id, provider, state, attempts, due_at, external_id, last_error, created_at, updated_at, discarded_by, discard_reason";

/// Columns: [`DELIVERY_COLUMNS`].
pub(super) fn delivery_from_row(row: &DbRow) -> Result<Delivery> {
    let (by, reason): (Option<String>, Option<String>) = (row.try_get(12)?, row.try_get(13)?);
    Ok(Delivery {
        id: parse("deliveries.id", row.try_get(0)?)?,
        event_id: parse("deliveries.event_id", row.try_get(1)?)?,
        event_type: row.try_get(2)?,
        subscription_id: parse("deliveries.subscription_id", row.try_get(3)?)?,
        provider: provider(row.try_get(4)?)?,
        state: state_of(row.try_get(5)?)?,
        attempts: unsigned("deliveries.attempts", row.try_get(6)?)?,
        due_at: row.try_get::<Option<i64>, _>(7)?.map(Timestamp),
        external_id: row.try_get(8)?,
        last_error: row.try_get(9)?,
        discarded: by.zip(reason).map(|(by, reason)| Discarded { by, reason }),
        created_at: Timestamp(row.try_get(10)?),
        updated_at: Timestamp(row.try_get(11)?),
    })
}

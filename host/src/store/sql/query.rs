//! Listings and details, on the readers.

use sqlx::{AssertSqlSafe, QueryBuilder, Row as _};

use super::dialect::{self, Db, DbPool, DbRow};
use super::listing::{self, push_after, push_floor, push_order, push_time};
use super::row::{DELIVERY_COLUMNS, delivery_from_row, event_from_row, json, state_code, unsigned};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Delivery, DeliveryState, LogLine, Outcome};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventId};
use crate::store::{DeliveryFilter, EventFilter, Page, Result, StoreError};

const EVENT_COLUMNS: &str =
    "id, event_type, payload, occurred_at, received_at, correlation_key, system_ids, trace_parent";

/// Levels that a log line can have, to turn stored text into the static names of the domain.
const LEVELS: [&str; 6] = ["debug", "info", "warn", "error", "stdout", "stderr"];

pub(super) async fn event(readers: &DbPool, id: EventId) -> Result<Option<Event>> {
    let sql = format!("SELECT {EVENT_COLUMNS} FROM events WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(id.to_string())
        .fetch_optional(readers)
        .await?;
    row.as_ref().map(event_from_row).transpose()
}

pub(super) async fn events(
    readers: &DbPool,
    filter: &EventFilter,
    after: Option<EventId>,
    limit: usize,
) -> Result<Page<Event>> {
    let after = after.map(|id| id.to_string());
    let floor = match events_led(filter, after.as_deref()) {
        Some(led) => listing::floor(readers, led).await?,
        None => None,
    };
    let mut query = events_query(filter, after.as_deref(), floor.as_deref(), limit);
    let rows = query.build().fetch_all(readers).await?;
    listing::page(&rows, limit, floor, event_from_row)
}

/// What a page may look at, where it has to be bounded: few events share a correlation key, many a
/// type.
pub(super) fn events_led(filter: &EventFilter, after: Option<&str>) -> Option<QueryBuilder<Db>> {
    if filter.event_type.is_none() || filter.correlation_key.is_some() {
        return None;
    }
    let mut led = QueryBuilder::new("SELECT id FROM events WHERE TRUE");
    push_time(&mut led, "id", EventId::PREFIX, (filter.from, filter.until));
    push_after(&mut led, "id", after);
    Some(led)
}

pub(super) fn events_query(
    filter: &EventFilter,
    after: Option<&str>,
    floor: Option<&str>,
    limit: usize,
) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(format!("SELECT {EVENT_COLUMNS} FROM events WHERE TRUE"));
    if let Some(event_type) = &filter.event_type {
        query
            .push(" AND event_type = ")
            .push_bind(event_type.clone());
    }
    if let Some(key) = &filter.correlation_key {
        query
            .push(" AND correlation_key IS NOT NULL AND correlation_key = ")
            .push_bind(key.clone());
    }
    push_time(
        &mut query,
        "id",
        EventId::PREFIX,
        (filter.from, filter.until),
    );
    push_after(&mut query, "id", after);
    push_floor(&mut query, "id", floor);
    push_order(&mut query, "id DESC", limit);
    query
}

pub(super) async fn delivery(readers: &DbPool, id: DeliveryId) -> Result<Option<Delivery>> {
    let sql = format!("SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(id.to_string())
        .fetch_optional(readers)
        .await?;
    row.as_ref().map(delivery_from_row).transpose()
}

pub(super) async fn deliveries(
    readers: &DbPool,
    filter: &DeliveryFilter,
    after: Option<DeliveryId>,
    limit: usize,
) -> Result<Page<Delivery>> {
    let after = after.map(|id| id.to_string());
    let mut lead = Lead::of(filter);
    if lead == Lead::Open && !listing::few_are_open(readers).await? {
        // They are everywhere then.
        lead = Lead::broad(filter);
    }
    let floor = match lead.bounded(filter, after.as_deref()) {
        Some(led) => listing::floor(readers, led).await?,
        None => None,
    };
    let mut query = deliveries_query(filter, lead, after.as_deref(), floor.as_deref(), limit);
    let rows = query.build().fetch_all(readers).await?;
    listing::page(&rows, limit, floor, delivery_from_row)
}

/// The index that leads to the deliveries of a filter, most selective first. The conditions are
/// literals where the index is partial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// `deliveries_event`: few.
    Event,
    /// `deliveries_failed`.
    Failed,
    /// `deliveries_dropped`: cancelled, filtered or discarded.
    Dropped,
    /// `deliveries_lane`: the backlog.
    Open,
    /// `deliveries_subscription`.
    Subscription,
    /// The primary key.
    Key,
}

impl Lead {
    pub(super) fn of(filter: &DeliveryFilter) -> Self {
        use DeliveryState::{Cancelled, Discarded, Filtered};
        let states = &filter.states;
        let all = |is: fn(&DeliveryState) -> bool| !states.is_empty() && states.iter().all(is);
        if filter.event.is_some() {
            Self::Event
        } else if *states == [DeliveryState::Failed] {
            Self::Failed
        } else if all(|state| matches!(state, Cancelled | Filtered | Discarded)) {
            Self::Dropped
        } else if all(|state| !state.is_terminal()) {
            Self::Open
        } else {
            Self::broad(filter)
        }
    }

    /// What partial indexes are for.
    fn condition(self) -> &'static str {
        match self {
            Self::Failed => " AND state = 4",
            Self::Dropped => " AND state >= 5",
            Self::Open => dialect::WITH_WORK_LEFT,
            Self::Event | Self::Subscription | Self::Key => "",
        }
    }

    /// What leads where nothing more selective does.
    fn broad(filter: &DeliveryFilter) -> Self {
        if filter.subscription.is_some() {
            Self::Subscription
        } else {
            Self::Key
        }
    }

    /// The rows that a page may look at, where the filter says more than the index does.
    pub(super) fn bounded(
        self,
        filter: &DeliveryFilter,
        after: Option<&str>,
    ) -> Option<QueryBuilder<Db>> {
        let by_kind = filter.provider.is_some() || filter.event_type.is_some();
        let by_state = !filter.states.is_empty();
        let by_place = by_kind || filter.subscription.is_some();
        let says_more = match self {
            Self::Event | Self::Open => false,
            Self::Failed => by_place,
            Self::Dropped => by_place || filter.states.len() < 3,
            Self::Subscription | Self::Key => by_kind || by_state,
        };
        if !says_more {
            return None;
        }
        let mut led = QueryBuilder::new("SELECT id FROM deliveries WHERE TRUE");
        led.push(self.condition());
        if let (Self::Subscription, Some(id)) = (self, filter.subscription) {
            led.push(" AND subscription_id = ")
                .push_bind(id.to_string());
        }
        push_time(
            &mut led,
            "id",
            DeliveryId::PREFIX,
            (filter.from, filter.until),
        );
        push_after(&mut led, "id", after);
        Some(led)
    }
}

pub(super) fn deliveries_query(
    filter: &DeliveryFilter,
    lead: Lead,
    after: Option<&str>,
    floor: Option<&str>,
    limit: usize,
) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(format!(
        "SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE TRUE"
    ));
    query.push(lead.condition());
    if let Some(event) = filter.event {
        query.push(" AND event_id = ").push_bind(event.to_string());
    }
    if let Some(subscription) = filter.subscription {
        query
            .push(" AND subscription_id = ")
            .push_bind(subscription.to_string());
    }
    if let Some(provider) = &filter.provider {
        query
            .push(" AND provider = ")
            .push_bind(provider.as_str().to_owned());
    }
    if let Some(event_type) = &filter.event_type {
        query
            .push(" AND event_type = ")
            .push_bind(event_type.clone());
    }
    if !filter.states.is_empty() && lead != Lead::Failed {
        query.push(" AND state IN (");
        let mut states = query.separated(", ");
        for state in &filter.states {
            states.push_bind(state_code(*state));
        }
        query.push(")");
    }
    push_time(
        &mut query,
        "id",
        DeliveryId::PREFIX,
        (filter.from, filter.until),
    );
    push_after(&mut query, "id", after);
    push_floor(&mut query, "id", floor);
    push_order(&mut query, "id DESC", limit);
    query
}

pub(super) async fn attempts(readers: &DbPool, id: DeliveryId) -> Result<Vec<Attempt>> {
    let rows = sqlx::query("SELECT number, started_at, latency_us, outcome, http_status, provider_version, message, logs FROM attempts WHERE delivery_id = $1 ORDER BY number")
        .bind(id.to_string())
        .fetch_all(readers)
        .await?;
    rows.iter().map(attempt_from_row).collect()
}

fn attempt_from_row(row: &DbRow) -> Result<Attempt> {
    let outcome: &str = row.try_get(3)?;
    let logs: Option<&str> = row.try_get(7)?;
    let lines: Vec<[String; 2]> =
        logs.map_or(Ok(Vec::new()), |logs| json("attempts.logs", logs))?;
    Ok(Attempt {
        number: unsigned("attempts.number", row.try_get(0)?)?,
        started_at: Timestamp(row.try_get(1)?),
        latency: std::time::Duration::from_micros(
            u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0),
        ),
        outcome: Outcome::from_name(outcome)
            .ok_or_else(|| StoreError::Corrupt(format!("attempts.outcome holds {outcome:?}")))?,
        http_status: row
            .try_get::<Option<i64>, _>(4)?
            .map(|status| unsigned("attempts.http_status", status))
            .transpose()?,
        provider_version: row.try_get(5)?,
        message: row.try_get(6)?,
        logs: lines
            .into_iter()
            .map(|[level, message]| LogLine {
                level: LEVELS
                    .into_iter()
                    .find(|name| *name == level)
                    .unwrap_or("info"),
                message,
            })
            .collect(),
    })
}

pub(super) async fn backlog(readers: &DbPool, at_most: u64) -> Result<u64> {
    let count: i64 = sqlx::query_scalar(dialect::BACKLOG)
        .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
        .fetch_one(readers)
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// One look at the claim index, however long the backlog.
pub(super) async fn oldest_due(readers: &DbPool) -> Result<Option<Timestamp>> {
    let due: Option<i64> =
        sqlx::query_scalar("SELECT min(due_at) FROM deliveries WHERE due_at IS NOT NULL")
            .fetch_one(readers)
            .await?;
    Ok(due.map(Timestamp))
}

//! Jobs: finished ones are attempts, open ones deliveries with work left.

use sqlx::{QueryBuilder, Row as _};

use super::dialect::{self, Db, DbPool, DbRow};
use super::listing::{self, push_after, push_floor, push_order, push_time};
use super::row::{IN_FLIGHT, parse, queue_code, queue_of, trigger_code, trigger_of, unsigned};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::id::DeliveryId;
use crate::domain::job::{Job, JobId, JobState, Trigger};
use crate::store::{JobFilter, Page, Result};

const OPEN: &str = "SELECT id, attempts_total + 1, state, trigger, COALESCE(queued_at, created_at), updated_at, worker FROM deliveries WHERE TRUE";
const FINISHED: &str = "SELECT delivery_id, number, outcome, trigger, queued_at, started_at, latency_us, worker, queue, message FROM attempts WHERE TRUE";

/// Which of the two a filter asks for.
pub(super) struct Parts {
    pub(super) open: bool,
    pub(super) finished: bool,
}

impl Parts {
    pub(super) fn of(filter: &JobFilter) -> Self {
        let is = |states: [JobState; 2]| filter.state.is_none_or(|state| states.contains(&state));
        Self {
            open: is([JobState::Queued, JobState::Running]) && filter.queue.is_none(),
            finished: is([JobState::Succeeded, JobState::Failed]),
        }
    }
}

/// Whether an index leads to the attempts of the filter.
pub(super) fn leads_to_finished(filter: &JobFilter) -> bool {
    let by_place = filter.queue.is_some() || filter.worker.is_some();
    match (filter.trigger, filter.state) {
        (_, _) if filter.delivery.is_some() => true,
        (None, None | Some(JobState::Failed)) => !by_place,
        (None | Some(Trigger::Ingest), _) => false,
        (Some(_), state) => !by_place && state.is_none(),
    }
}

/// The deliveries whose jobs a page may look at.
pub(super) fn led(filter: &JobFilter, after: Option<JobId>) -> QueryBuilder<Db> {
    let mut led = QueryBuilder::new("SELECT id FROM deliveries WHERE TRUE");
    push_time(
        &mut led,
        "id",
        DeliveryId::PREFIX,
        (filter.from, filter.until),
    );
    push_after(
        &mut led,
        "id",
        after.map(|after| after.delivery.to_string()).as_deref(),
    );
    led
}

pub(super) async fn list(
    readers: &DbPool,
    filter: &JobFilter,
    after: Option<JobId>,
    limit: usize,
) -> Result<Page<Job>> {
    let parts = Parts::of(filter);
    let few_are_open =
        !parts.open || filter.delivery.is_some() || listing::few_are_open(readers).await?;
    let floor = if few_are_open && (!parts.finished || leads_to_finished(filter)) {
        None
    } else {
        listing::floor(readers, led(filter, after)).await?
    };
    let mut jobs = Vec::new();
    if parts.open {
        let mut query = open_query(filter, few_are_open, after, floor.as_deref(), limit);
        for row in query.build().fetch_all(readers).await? {
            jobs.push(open_from_row(&row)?);
        }
    }
    if parts.finished {
        let mut query = finished_query(filter, after, floor.as_deref(), limit);
        for row in query.build().fetch_all(readers).await? {
            jobs.push(finished_from_row(&row)?);
        }
    }
    jobs.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
    let is_full = jobs.len() > limit;
    jobs.truncate(limit);
    // Behind every attempt of the last delivery that was looked at.
    let resume = floor.filter(|_| !is_full).map(|floor| format!("{floor}.1"));
    Ok(Page {
        items: jobs,
        more: is_full || resume.is_some(),
        resume,
    })
}

pub(super) fn open_query(
    filter: &JobFilter,
    few_are_open: bool,
    after: Option<JobId>,
    floor: Option<&str>,
    limit: usize,
) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(OPEN);
    query.push(if few_are_open {
        dialect::WITH_WORK_LEFT
    } else {
        " AND state <= 2"
    });
    query.push(match filter.state {
        Some(JobState::Running) => " AND state = 2",
        Some(JobState::Queued) => " AND state < 2",
        _ => "",
    });
    if let Some(trigger) = filter.trigger {
        query
            .push(" AND trigger = ")
            .push_bind(trigger_code(trigger));
    }
    if let Some(worker) = filter.worker {
        query.push(" AND worker = ").push_bind(worker.to_string());
    }
    if let Some(delivery) = filter.delivery {
        query.push(" AND id = ").push_bind(delivery.to_string());
    }
    push_time(
        &mut query,
        "id",
        DeliveryId::PREFIX,
        (filter.from, filter.until),
    );
    // Its job is a delivery's last, so that whoever is at one of its attempts has seen it.
    push_after(
        &mut query,
        "id",
        after.map(|after| after.delivery.to_string()).as_deref(),
    );
    push_floor(&mut query, "id", floor);
    push_order(&mut query, "id DESC", limit);
    query
}

pub(super) fn finished_query(
    filter: &JobFilter,
    after: Option<JobId>,
    floor: Option<&str>,
    limit: usize,
) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(FINISHED);
    query.push(match filter.state {
        Some(JobState::Succeeded) => " AND outcome = 'success'",
        Some(JobState::Failed) => " AND outcome <> 'success'",
        _ => "",
    });
    if let Some(trigger) = filter.trigger {
        // As literals, so that the partial index serves all but the most common one.
        let code = trigger_code(trigger);
        query.push(if code > 0 { " AND trigger > 0" } else { "" });
        query.push(format_args!(" AND trigger = {code}"));
    }
    if let Some(queue) = filter.queue {
        query.push(" AND queue = ").push_bind(queue_code(queue));
    }
    if let Some(worker) = filter.worker {
        query.push(" AND worker = ").push_bind(worker.to_string());
    }
    if let Some(delivery) = filter.delivery {
        query
            .push(" AND delivery_id = ")
            .push_bind(delivery.to_string());
    }
    push_time(
        &mut query,
        "delivery_id",
        DeliveryId::PREFIX,
        (filter.from, filter.until),
    );
    if let Some(after) = after {
        // The delivery alone as well: a planner does not estimate what a row's comparison leaves.
        query
            .push(" AND delivery_id <= ")
            .push_bind(after.delivery.to_string())
            .push(" AND (delivery_id, number) < (")
            .push_bind(after.delivery.to_string())
            .push(", ")
            .push_bind(i64::from(after.number))
            .push(")");
    }
    push_floor(&mut query, "delivery_id", floor);
    push_order(&mut query, "delivery_id DESC, number DESC", limit);
    query
}

fn job_id(row: &DbRow) -> Result<JobId> {
    Ok(JobId {
        delivery: parse("deliveries.id", row.try_get(0)?)?,
        number: unsigned("attempts.number", row.try_get(1)?)?,
    })
}

/// Columns: [`OPEN`].
fn open_from_row(row: &DbRow) -> Result<Job> {
    let is_running = row.try_get::<i64, _>(2)? == IN_FLIGHT;
    let worker: Option<&str> = row.try_get(6)?;
    Ok(Job {
        id: job_id(row)?,
        state: if is_running {
            JobState::Running
        } else {
            JobState::Queued
        },
        queue: None,
        trigger: Some(trigger_of(row.try_get(3)?)?),
        queued_at: Some(Timestamp(row.try_get(4)?)),
        // The claim was its last change.
        started_at: is_running
            .then(|| row.try_get(5).map(Timestamp))
            .transpose()?,
        ended_at: None,
        worker: worker
            .map(|id| parse("deliveries.worker", id))
            .transpose()?,
        error: None,
    })
}

/// Columns: [`FINISHED`].
fn finished_from_row(row: &DbRow) -> Result<Job> {
    let outcome: &str = row.try_get(2)?;
    let succeeded = outcome == Outcome::Success.as_str();
    let started_at = Timestamp(row.try_get(5)?);
    let latency_us: u64 = unsigned("attempts.latency_us", row.try_get(6)?)?;
    let worker: Option<&str> = row.try_get(7)?;
    let code = |index: usize| row.try_get::<Option<i64>, _>(index);
    Ok(Job {
        id: job_id(row)?,
        state: if succeeded {
            JobState::Succeeded
        } else {
            JobState::Failed
        },
        queue: code(8)?.map(queue_of).transpose()?,
        trigger: code(3)?.map(trigger_of).transpose()?,
        queued_at: code(4)?.map(Timestamp),
        started_at: Some(started_at),
        ended_at: Some(started_at.plus(std::time::Duration::from_micros(latency_us))),
        worker: worker.map(|id| parse("attempts.worker", id)).transpose()?,
        error: if succeeded {
            None
        } else {
            Some(row.try_get(9)?)
        },
    })
}

pub(super) async fn one(readers: &DbPool, id: JobId) -> Result<Option<Job>> {
    let finished = QueryBuilder::<Db>::new(FINISHED)
        .push(" AND delivery_id = ")
        .push_bind(id.delivery.to_string())
        .push(" AND number = ")
        .push_bind(i64::from(id.number))
        .build()
        .fetch_optional(readers)
        .await?;
    if let Some(row) = finished {
        return finished_from_row(&row).map(Some);
    }
    let open = QueryBuilder::<Db>::new(OPEN)
        .push(" AND state <= 2 AND id = ")
        .push_bind(id.delivery.to_string())
        .build()
        .fetch_optional(readers)
        .await?;
    let open = open.as_ref().map(open_from_row).transpose()?;
    Ok(open.filter(|open| open.id == id))
}

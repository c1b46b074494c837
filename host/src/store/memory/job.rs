//! Jobs: each attempt, and each delivery with work left.

use async_trait::async_trait;

use super::tables::Row;
use super::{MemoryStore, page, within};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, DeliveryState, Outcome};
use crate::domain::job::{Job, JobId, JobOrigin, JobState};
use crate::store::{JobFilter, JobStore, Page, Result};

fn finished(row: &Row, attempt: &Attempt, origin: &JobOrigin) -> Job {
    let succeeded = attempt.outcome == Outcome::Success;
    Job {
        id: JobId {
            delivery: row.delivery.id,
            number: attempt.number,
        },
        state: if succeeded {
            JobState::Succeeded
        } else {
            JobState::Failed
        },
        queue: Some(origin.queue),
        trigger: Some(origin.trigger),
        queued_at: Some(origin.queued_at),
        started_at: Some(attempt.started_at),
        ended_at: Some(attempt.started_at.plus(attempt.latency)),
        worker: Some(origin.worker),
        error: (!succeeded).then(|| attempt.message.clone()),
    }
}

fn open(row: &Row) -> Option<Job> {
    let is_running = row.delivery.state == DeliveryState::InFlight;
    row.is_open().then(|| Job {
        id: JobId {
            delivery: row.delivery.id,
            number: u32::try_from(row.attempts.len() + 1).unwrap_or(u32::MAX),
        },
        state: if is_running {
            JobState::Running
        } else {
            JobState::Queued
        },
        queue: None,
        trigger: Some(row.trigger),
        queued_at: Some(row.queued_at),
        started_at: is_running.then_some(row.delivery.updated_at),
        ended_at: None,
        worker: row.worker,
        error: None,
    })
}

/// A row's jobs, with when its delivery was created.
fn jobs(row: &Row) -> impl Iterator<Item = (Timestamp, Job)> {
    let attempts = row.attempts.iter().zip(&row.origins);
    let finished = attempts.map(|(attempt, origin)| finished(row, attempt, origin));
    let jobs = finished.chain(open(row));
    jobs.map(|job| (row.delivery.created_at, job))
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Page<Job>> {
        let filter = filter.clone();
        self.transact(move |tables, _| {
            let wanted = |(created_at, job): &(Timestamp, Job)| {
                filter.state.is_none_or(|state| state == job.state)
                    && (filter.queue.is_none() || filter.queue == job.queue)
                    && (filter.trigger.is_none() || filter.trigger == job.trigger)
                    && (filter.worker.is_none() || filter.worker == job.worker)
                    && filter.delivery.is_none_or(|id| id == job.id.delivery)
                    && within(*created_at, filter.from, filter.until)
            };
            let all: Vec<_> = tables.rows.values().flat_map(jobs).collect();
            let all = all.into_iter().map(|(at, job)| (job.id, (at, job)));
            let page = page(all, after, limit, wanted);
            Ok(Page {
                items: page.items.into_iter().map(|(_, job)| job).collect(),
                more: page.more,
                resume: page.resume,
            })
        })
        .await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        self.transact(move |tables, _| {
            let mut jobs = tables.rows.get(&id.delivery).into_iter().flat_map(jobs);
            Ok(jobs.find(|(_, job)| job.id == id).map(|(_, job)| job))
        })
        .await
    }
}

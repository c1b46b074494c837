//! Processing jobs: who worked on which delivery when, and why.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::auth::Read;
use super::error::{ApiError, Problem};
use super::extract::Id;
use super::page::{Items, PageParams, Query};
use crate::domain::clock::rfc3339;
use crate::domain::job::{Job, JobId, JobQueue, JobState, Trigger};
use crate::store::JobFilter;

/// A parameter that is one of a few names.
fn named<T>(
    query: &Query,
    field: &str,
    from_name: fn(&str) -> Option<T>,
    known: &[&str],
) -> Result<Option<T>, ApiError> {
    let unknown =
        |name: &str| ApiError::field(field, format!("{name:?} is none of {}", known.join(", ")));
    query
        .one(field)?
        .map(|name| from_name(name).ok_or_else(|| unknown(name)))
        .transpose()
}

fn filter(query: &Query) -> Result<JobFilter, ApiError> {
    query.only(&[
        "state",
        "queue",
        "trigger",
        "worker",
        "deliveryId",
        "from",
        "until",
    ])?;
    Ok(JobFilter {
        state: named(
            query,
            "state",
            JobState::from_name,
            &JobState::ALL.map(JobState::as_str),
        )?,
        queue: named(
            query,
            "queue",
            JobQueue::from_name,
            &JobQueue::ALL.map(JobQueue::as_str),
        )?,
        trigger: named(
            query,
            "trigger",
            Trigger::from_name,
            &Trigger::ALL.map(Trigger::as_str),
        )?,
        worker: query.parsed("worker")?,
        delivery: query.parsed("deliveryId")?,
        from: query.instant("from")?,
        until: query.instant("until")?,
    })
}

/// A job: one round of work on one delivery.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobView {
    /// The delivery, a dot, and the number of the attempt.
    id: String,
    delivery_id: String,
    /// 1 for the first ever made.
    attempt: u32,
    /// `queued`, `running`, `succeeded` or `failed`.
    state: &'static str,
    /// Where it was found: `store`, `process` or `replay`; null while it is open.
    queue: Option<&'static str>,
    /// What made it due: `ingest`, `retry`, `replay`, `sweep` or `manual`.
    trigger: Option<&'static str>,
    /// When it was due: for a retry, after its wait.
    queued_at: Option<String>,
    started_at: Option<String>,
    ended_at: Option<String>,
    /// The process that has it, or had it.
    worker: Option<String>,
    error: Option<String>,
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        Self {
            id: job.id.to_string(),
            delivery_id: job.id.delivery.to_string(),
            attempt: job.id.number,
            state: job.state.as_str(),
            queue: job.queue.map(JobQueue::as_str),
            trigger: job.trigger.map(Trigger::as_str),
            queued_at: job.queued_at.map(rfc3339),
            started_at: job.started_at.map(rfc3339),
            ended_at: job.ended_at.map(rfc3339),
            worker: job.worker.map(|id| id.to_string()),
            error: job.error,
        }
    }
}

/// List jobs
///
/// Newest delivery first, its last attempt first. A page may have fewer items than asked for, or
/// none, and another one after it: follow `next`.
#[utoipa::path(get, path = "/jobs", tag = "jobs",
    params(
        ("state" = Option<String>, Query, description = "`queued`, `running`, `succeeded` or `failed`"),
        ("queue" = Option<String>, Query, description = "`store`, `process` or `replay`: finished jobs found there"),
        ("trigger" = Option<String>, Query, description = "`ingest`, `retry`, `replay`, `sweep` or `manual`"),
        ("worker" = Option<String>, Query),
        ("deliveryId" = Option<String>, Query),
        ("from" = Option<String>, Query, description = "Of deliveries created at or after, RFC 3339"),
        ("until" = Option<String>, Query, description = "Of deliveries created before, RFC 3339"),
        PageParams,
    ),
    responses((status = 200, body = Items<JobView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    let (filter, after) = (filter(&query)?, query.cursor_id("job")?);
    let page = api.store.jobs(&filter, after, query.limit()?).await?;
    let key = |job: &Job| job.id.to_string();
    Ok(query.answer("job", page, key, JobView::from))
}

/// Show a job
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, body = JobView), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<JobId>,
) -> Result<Json<JobView>, ApiError> {
    let job = api.store.job(id).await?;
    let job = job.ok_or_else(|| ApiError::not_found(format!("job {id}")))?;
    Ok(Json(job.into()))
}

//! Dead letters, jobs and removal by age: the traits, over the statements.

use async_trait::async_trait;

use super::dialect::{Backend, in_time};
use super::{dead_letter, job, replay, retention};
use crate::domain::clock::Timestamp;
use crate::domain::dead_letter::{DeadLetterCursor, DeadLetterFilter, DeadLetterRun};
use crate::domain::delivery::{Delivery, Discarded};
use crate::domain::id::{DeadLetterRunId, DeliveryId, WorkerId};
use crate::domain::job::{Job, JobId};
use crate::domain::replay::{Outcomes, ReplayState};
use crate::store::{
    DeadLetterStore, JobFilter, JobStore, Page, RemovalBatch, Removed, Result, RetentionStore,
};

#[async_trait]
impl DeadLetterStore for Backend {
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterCursor>,
        limit: usize,
    ) -> Result<Page<Delivery>> {
        in_time(dead_letter::list(&self.readers, filter, after, limit)).await
    }

    async fn requeue_dead_letter(&self, id: DeliveryId, at: Timestamp) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(dead_letter::requeue_one(connection, id, at)))
            .await
    }

    async fn discard_dead_letter(
        &self,
        id: DeliveryId,
        decision: Discarded,
        at: Timestamp,
    ) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(dead_letter::discard_one(connection, id, decision, at)))
            .await
    }

    async fn put_dead_letter_run(&self, run: DeadLetterRun) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(dead_letter::put_run(connection, run)))
            .await
    }

    async fn dead_letter_run(&self, id: DeadLetterRunId) -> Result<Option<DeadLetterRun>> {
        in_time(dead_letter::run(&self.readers, id)).await
    }

    async fn dead_letter_runs(
        &self,
        state: Option<ReplayState>,
        after: Option<DeadLetterRunId>,
        limit: usize,
    ) -> Result<Page<DeadLetterRun>> {
        in_time(dead_letter::runs(&self.readers, state, after, limit)).await
    }

    async fn step_dead_letter_run(
        &self,
        run: DeadLetterRun,
        limit: usize,
        at: Timestamp,
    ) -> Result<Option<DeadLetterRun>> {
        in_time(
            self.beside(move |connection| Box::pin(dead_letter::step(connection, run, limit, at))),
        )
        .await
    }

    async fn cancel_dead_letter_run(&self, id: DeadLetterRunId, at: Timestamp) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(dead_letter::cancel(connection, id, at)))
            .await
    }

    async fn dead_letter_outcomes(&self, id: DeadLetterRunId) -> Result<Outcomes> {
        in_time(replay::outcomes(&self.readers, id)).await
    }
}

#[async_trait]
impl JobStore for Backend {
    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Page<Job>> {
        in_time(job::list(&self.readers, filter, after, limit)).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        in_time(job::one(&self.readers, id)).await
    }
}

#[async_trait]
impl RetentionStore for Backend {
    async fn hold_duty(
        &self,
        name: &'static str,
        worker: WorkerId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool> {
        self.writer
            .run(move |connection| {
                Box::pin(retention::hold_duty(connection, name, worker, now, until))
            })
            .await
    }

    async fn remove(&self, batch: RemovalBatch) -> Result<Removed> {
        in_time(self.beside(move |connection| Box::pin(retention::remove(connection, batch)))).await
    }
}

//! The one task that writes (ADR 0001).
//!
//! Commands that queue up while a commit is under way are taken together into the next
//! transaction. Each is answered after its commit. When a transaction fails, it is rolled back
//! and its commands are redone one by one, so that a command can only fail by its own doing.

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::audit;
use super::dialect::{DbConnection, Writing, in_time};
use super::lanes::Cursor;
use super::{accept, claim, ingress, record};
use crate::domain::audit::NewEntry;
use crate::domain::delivery::LeaseResult;
use crate::store::audit::Effect;
use crate::store::{
    AcceptRequest, Accepted, Claim, ClaimRequest, ReceiveRequest, Received, Recorded, Result,
    StoreError,
};

/// Commands that may wait; callers beyond wait for room.
const QUEUE_MAX: usize = 4_096;
/// Commands that one transaction takes.
const GROUP_MAX: usize = 512;

type Reply<T> = oneshot::Sender<Result<T>>;
type Task = Box<dyn for<'c> FnOnce(&'c mut Writing) -> BoxFuture<'c, ()> + Send>;

enum Command {
    Accept(AcceptRequest, Reply<Accepted>),
    Receive(ReceiveRequest, Reply<Received>),
    Record(LeaseResult, Reply<Recorded>),
    Claim(ClaimRequest, Reply<Claim>),
    /// Rare: runs in a transaction of its own.
    Task(Task),
}

/// The commands of one transaction, by kind.
#[derive(Default)]
struct Group {
    accepts: Vec<(AcceptRequest, Reply<Accepted>)>,
    receives: Vec<(ReceiveRequest, Reply<Received>)>,
    records: Vec<(LeaseResult, Reply<Recorded>)>,
    claims: Vec<(ClaimRequest, Reply<Claim>)>,
}

/// What a group's transaction found, in the order of its commands.
#[derive(Default)]
struct Done {
    accepts: Vec<Accepted>,
    receives: Vec<Received>,
    records: Vec<Recorded>,
    claims: Vec<Claim>,
}

/// A handle on the task. The task ends when the last handle is gone.
#[derive(Clone)]
pub(super) struct Writer {
    commands: mpsc::Sender<Command>,
    /// Written with each change that is made through this handle.
    entry: Option<NewEntry>,
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the database writer has stopped".into())
}

impl Writer {
    pub(super) fn start(writing: Writing) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(writing, queue));
        Self {
            commands,
            entry: None,
        }
    }

    /// A handle whose changes are written with `entry`.
    pub(super) fn audited(&self, entry: NewEntry) -> Self {
        Self {
            entry: Some(entry),
            ..self.clone()
        }
    }

    async fn send<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(make(reply))
            .await
            .map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    pub(super) async fn accept(&self, request: AcceptRequest) -> Result<Accepted> {
        if self.entry.is_some() {
            return self
                .run(move |connection| {
                    Box::pin(async move {
                        let done = accept::write(connection, &[&request]).await?;
                        done.into_iter().next().ok_or_else(stopped)
                    })
                })
                .await;
        }
        self.send(|reply| Command::Accept(request, reply)).await
    }

    pub(super) async fn receive(&self, request: ReceiveRequest) -> Result<Received> {
        if self.entry.is_some() {
            return self
                .run(move |connection| {
                    Box::pin(async move {
                        let done = ingress::write(connection, &[&request]).await?;
                        done.into_iter().next().ok_or_else(stopped)
                    })
                })
                .await;
        }
        self.send(|reply| Command::Receive(request, reply)).await
    }

    pub(super) async fn record(&self, result: LeaseResult) -> Result<Recorded> {
        self.send(|reply| Command::Record(result, reply)).await
    }

    pub(super) async fn claim(&self, request: ClaimRequest) -> Result<Claim> {
        self.send(|reply| Command::Claim(request, reply)).await
    }

    /// Runs `task` in a transaction of its own and answers after its commit. With it goes this
    /// handle's entry, where `task` changed something.
    pub(super) async fn run<T, F>(&self, task: F) -> Result<T>
    where
        T: Effect + Send + 'static,
        F: for<'c> FnOnce(&'c mut DbConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let entry = self.entry.clone();
        self.send(|reply| {
            Command::Task(Box::new(move |writing| {
                Box::pin(async move {
                    let _ = reply.send(in_time(in_transaction(writing, task, entry)).await);
                })
            }))
        })
        .await
    }
}

async fn in_transaction<T, F>(writing: &mut Writing, work: F, entry: Option<NewEntry>) -> Result<T>
where
    T: Effect,
    F: for<'c> FnOnce(&'c mut DbConnection) -> BoxFuture<'c, Result<T>>,
{
    let mut transaction = writing.begin().await?;
    let value = work(&mut transaction).await?;
    if let Some(entry) = entry.filter(|_| value.is_change()) {
        audit::append(&mut transaction, vec![entry]).await?;
    }
    transaction.commit().await?;
    writing.committed();
    Ok(value)
}

async fn run(mut writing: Writing, mut queue: mpsc::Receiver<Command>) {
    let mut waiting = Vec::with_capacity(GROUP_MAX);
    let mut cursor = Cursor::default();
    while queue.recv_many(&mut waiting, GROUP_MAX).await > 0 {
        let mut group = Group::default();
        let mut tasks = Vec::new();
        for command in waiting.drain(..) {
            match command {
                Command::Accept(request, reply) => group.accepts.push((request, reply)),
                Command::Receive(request, reply) => group.receives.push((request, reply)),
                Command::Record(result, reply) => group.records.push((result, reply)),
                Command::Claim(request, reply) => group.claims.push((request, reply)),
                Command::Task(task) => tasks.push(task),
            }
        }
        group.write(&mut writing, &mut cursor).await;
        for task in tasks {
            task(&mut writing).await;
        }
    }
    // The last handle is gone.
    writing.close().await;
}

impl Group {
    fn len(&self) -> usize {
        self.accepts.len() + self.receives.len() + self.records.len() + self.claims.len()
    }

    async fn write(self, writing: &mut Writing, cursor: &mut Cursor) {
        match self.len() {
            0 => {}
            1 => {
                let done = in_time(self.attempt(writing, cursor)).await;
                self.reply(done);
            }
            several => match in_time(self.attempt(writing, cursor)).await {
                Ok(done) => self.reply(Ok(done)),
                Err(error) => {
                    tracing::warn!(%error, several, "a shared commit failed; its commands are redone one by one");
                    for single in self.split() {
                        let mut done = in_time(single.attempt(writing, cursor)).await;
                        // The commit may have been made, and its answer lost.
                        for claim in done.iter_mut().flat_map(|done| &mut done.claims) {
                            claim.is_doubtful = true;
                        }
                        single.reply(done);
                    }
                }
            },
        }
    }

    /// Results are recorded first, so that a claim in the same transaction sees what they made
    /// due; accepted deliveries likewise.
    async fn attempt(&self, writing: &mut Writing, cursor: &mut Cursor) -> Result<Done> {
        let mut transaction = writing.begin().await?;
        let mut done = Done::default();
        if !self.records.is_empty() {
            let results: Vec<&LeaseResult> =
                self.records.iter().map(|(result, _)| result).collect();
            done.records = record::write(&mut transaction, &results).await?;
        }
        if !self.accepts.is_empty() {
            let requests: Vec<&AcceptRequest> =
                self.accepts.iter().map(|(request, _)| request).collect();
            done.accepts = accept::write(&mut transaction, &requests).await?;
        }
        if !self.receives.is_empty() {
            let requests: Vec<&ReceiveRequest> =
                self.receives.iter().map(|(request, _)| request).collect();
            done.receives = ingress::write(&mut transaction, &requests).await?;
        }
        for (request, _) in &self.claims {
            done.claims
                .push(claim::write(&mut transaction, request, cursor).await?);
        }
        audit::append(&mut transaction, self.given_up(&done.records)).await?;
        transaction.commit().await?;
        writing.committed();
        Ok(done)
    }

    /// What is to be said about the results that were written.
    fn given_up(&self, recorded: &[Recorded]) -> Vec<NewEntry> {
        self.records
            .iter()
            .zip(recorded)
            .filter(|(_, recorded)| **recorded == Recorded::Written)
            .filter_map(|((result, _), _)| result.entry.as_deref().cloned())
            .collect()
    }

    fn split(self) -> impl Iterator<Item = Self> {
        let records = self.records.into_iter().map(|record| Self {
            records: vec![record],
            ..Self::default()
        });
        let accepts = self.accepts.into_iter().map(|accept| Self {
            accepts: vec![accept],
            ..Self::default()
        });
        let receives = self.receives.into_iter().map(|receive| Self {
            receives: vec![receive],
            ..Self::default()
        });
        let claims = self.claims.into_iter().map(|claim| Self {
            claims: vec![claim],
            ..Self::default()
        });
        records.chain(accepts).chain(receives).chain(claims)
    }

    fn reply(self, done: Result<Done>) {
        match done {
            Ok(done) => {
                // A caller that has gone away does not matter: the work is committed.
                for ((_, reply), value) in self.accepts.into_iter().zip(done.accepts) {
                    let _ = reply.send(Ok(value));
                }
                for ((_, reply), value) in self.receives.into_iter().zip(done.receives) {
                    let _ = reply.send(Ok(value));
                }
                for ((_, reply), value) in self.records.into_iter().zip(done.records) {
                    let _ = reply.send(Ok(value));
                }
                for ((_, reply), value) in self.claims.into_iter().zip(done.claims) {
                    let _ = reply.send(Ok(value));
                }
            }
            Err(error) => {
                // Only a group of one gets here.
                if let Some((_, reply)) = self.accepts.into_iter().next() {
                    let _ = reply.send(Err(error));
                } else if let Some((_, reply)) = self.receives.into_iter().next() {
                    let _ = reply.send(Err(error));
                } else if let Some((_, reply)) = self.records.into_iter().next() {
                    let _ = reply.send(Err(error));
                } else if let Some((_, reply)) = self.claims.into_iter().next() {
                    let _ = reply.send(Err(error));
                }
            }
        }
    }
}

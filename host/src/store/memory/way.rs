//! What lies between a process and the store: where commands and answers are lost.

use async_trait::async_trait;

/// How one command fares.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    /// It is carried out twice, as after a commit whose answer was lost.
    pub(crate) redone: bool,
    /// The caller is told of an error at once, while the command is still on its way.
    pub(crate) disowned: bool,
}

/// The way of one process.
#[async_trait]
pub(crate) trait Way: Send + Sync {
    /// A command leaves; never, where its process is dead.
    async fn leave(&self) -> Fate;

    /// It travels. False: it does not arrive.
    async fn arrive(&self) -> bool;

    /// The answer travels. False: it is lost.
    async fn come_back(&self) -> bool;
}

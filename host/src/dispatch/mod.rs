//! From an emitted event to recorded attempts: match, fan out, claim, call, record, retry.
//!
//! Sees traits and `domain` only: no database, no broker, no WebAssembly.

pub mod accept;
pub mod announcements;
mod attempt_log;
pub mod dead_letters;
mod gates;
pub mod key_keeping;
pub mod migration;
pub mod open_source;
pub mod programs;
pub mod replay;
mod report;
pub mod retention;
pub mod rotation;
mod shares;
pub mod snapshot;
pub mod worker;

use std::sync::Arc;

use crate::domain::clock::{Clock, Timestamp};
use crate::domain::event::EventTypeName;
use crate::domain::id::IdGenerator;

pub use accept::{AcceptError, Accepter, Emit, EmittedBy};
pub use dead_letters::DeadLetters;
pub use migration::StoredDocuments;
pub use open_source::OpenSource;
pub use programs::Programs;
pub use replay::Replayer;
pub use retention::{Ages, Retention};
pub use snapshot::{Edit, Snapshot, Snapshots};
pub use worker::{Worker, WorkerConfig};

/// Identifiers from the clock and a random source.
pub struct Ids {
    generator: IdGenerator,
    random: fn() -> u128,
}

impl Ids {
    /// Identifiers whose low bits come from `random`.
    #[must_use]
    pub fn new(random: fn() -> u128) -> Self {
        Self {
            generator: IdGenerator::default(),
            random,
        }
    }

    /// The next identifier.
    pub fn next<T: From<ulid::Ulid>>(&self, now: Timestamp) -> T {
        self.generator.next(now, self.random)
    }
}

/// The gateway's own event types, registered by itself.
pub mod operational {
    use super::{Arc, Clock, EventTypeName};
    use crate::domain::event::EventType;
    use crate::store::{CatalogStore, StoreError};

    /// Every name begins with this; deliveries of such events make no further ones.
    pub const PREFIX: &str = "hookport.";
    /// A delivery was given up.
    pub const EXHAUSTED: &str = "hookport.delivery.exhausted";
    /// A delivery succeeded after failed attempts.
    pub const RECOVERED: &str = "hookport.delivery.recovered";
    /// The gateway switched a subscription off.
    pub const DISABLED: &str = "hookport.subscription.disabled";
    /// A provider's file cannot be used.
    pub const PROVIDER_FAILED: &str = "hookport.provider.failed";
    /// A subscription's deliveries are held back: its destination is not there.
    pub const UNAVAILABLE: &str = "hookport.destination.unavailable";
    /// A destination answers again.
    pub const AVAILABLE: &str = "hookport.destination.recovered";

    const TYPES: [(&str, &str, &str); 6] = [
        (
            EXHAUSTED,
            "Delivery given up",
            "A delivery used up its attempts, or its provider said that another cannot succeed.",
        ),
        (
            RECOVERED,
            "Delivery recovered",
            "A delivery succeeded after failed attempts.",
        ),
        (
            DISABLED,
            "Subscription switched off",
            "The gateway switched a subscription off, and why.",
        ),
        (
            PROVIDER_FAILED,
            "Provider failed",
            "A provider's file cannot be used, and why.",
        ),
        (
            UNAVAILABLE,
            "Destination unavailable",
            "A subscription's deliveries are held back, as its destination failed several times in a row.",
        ),
        (
            AVAILABLE,
            "Destination recovered",
            "A destination answers again, and its subscription's deliveries go out.",
        ),
    ];

    /// Registers the types that are not registered yet.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn register(
        store: &dyn CatalogStore,
        clock: &Arc<dyn Clock>,
    ) -> Result<(), StoreError> {
        let known = store.catalog().await?.event_types;
        for (name, display_name, description) in TYPES {
            let Ok(name) = EventTypeName::parse(name) else {
                continue;
            };
            if known.iter().any(|event_type| event_type.name == name) {
                continue;
            }
            let now = clock.now();
            store
                .put_event_type(EventType {
                    display_name: display_name.to_owned(),
                    description: description.to_owned(),
                    category: "hookport".to_owned(),
                    ..EventType::new(name, now)
                })
                .await?;
        }
        Ok(())
    }
}

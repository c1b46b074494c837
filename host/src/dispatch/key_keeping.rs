//! The master keys of a running gateway: taken up again when their file changes, put into use, and
//! told of.
//!
//! Invariant: a process says that it seals with a key only when no change is under way any more
//! that it sealed with another one.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::rotation::Rotation;
use crate::domain::audit::NewEntry;
use crate::domain::id::WorkerId;
use crate::store::{ProcessKeys, StoreError};
use crate::vault::key::{Variables, WhenMissing};
use crate::vault::{KeyRing, KeysInUse};

/// Between two looks at the file.
const LOOK: Duration = Duration::from_secs(1);
/// A process that was not seen for so long does not run any more.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Keeps the vault's keys.
pub struct KeyKeeper {
    /// The key file; `None`: the keys are the environment's and stay as they are.
    pub file: Option<PathBuf>,
    /// What the environment says beside it.
    pub variables: Variables,
    /// What seals anew.
    pub rotation: Rotation,
    /// Which process this is.
    pub process: WorkerId,
    /// Others have the store too: sealing anew is for whoever rotates, when all know the key.
    pub is_shared: bool,
}

/// What was done so far.
#[derive(Default)]
struct Kept {
    /// What others were told.
    told: Option<KeysInUse>,
    /// What was wrong with the file when it was last looked at.
    problem: Option<String>,
}

impl KeyKeeper {
    /// Looks after the keys for as long as the process runs.
    pub async fn run(self) {
        let mut kept = Kept::default();
        loop {
            self.look(&mut kept);
            if let Err(error) = self.put_into_use(&mut kept).await {
                tracing::warn!(%error, "the master keys in use are not on record yet");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes up what the file holds now. One that cannot be used changes nothing.
    fn look(&self, kept: &mut Kept) {
        let Some(file) = &self.file else { return };
        let vault = &self.rotation.vault;
        match KeyRing::load(&self.variables, file, WhenMissing::Refuse) {
            Ok(ring) => {
                kept.problem = None;
                let before = vault.keys();
                if ring.names() != before {
                    vault.replace(&ring);
                    tracing::info!(key = ring.sealing.id(), "the master keys were replaced");
                }
            }
            Err(error) => {
                let problem = error.to_string();
                if kept.problem.as_ref() != Some(&problem) {
                    tracing::error!(problem, "the master keys stay as they were");
                }
                kept.problem = Some(problem);
            }
        }
    }

    async fn put_into_use(&self, kept: &mut Kept) -> Result<(), StoreError> {
        let keys = self.rotation.vault.keys();
        let is_news = kept.told.as_ref() != Some(&keys);
        if !is_news && !self.is_shared {
            return Ok(());
        }
        let store = &self.rotation.store;
        if is_news {
            if self.is_shared {
                // Waits for what is under way.
                drop(self.rotation.snapshots.edit().await?);
            } else {
                self.reseal().await?;
            }
            let (now, actor) = (self.rotation.clock.now(), self.rotation.actor.clone());
            let entry = NewEntry::new(now, actor, "vault.keys_changed", "vault", "keys")
                .after(&json!({"seals": keys.seals, "opens": keys.opens}))
                .once();
            store.append_audit(vec![entry]).await?;
        }
        let patience = if self.is_shared {
            PATIENCE
        } else {
            Duration::ZERO
        };
        let told = ProcessKeys {
            process: self.process,
            seals: keys.seals.clone(),
            opens: keys.opens.clone(),
        };
        store.note_keys(told, patience).await?;
        kept.told = Some(keys);
        Ok(())
    }

    async fn reseal(&self) -> Result<(), StoreError> {
        let done = self.rotation.run().await?;
        for problem in done.unreadable {
            tracing::error!(
                problem,
                "a secret cannot be sealed anew, and stays as it is"
            );
        }
        Ok(())
    }
}

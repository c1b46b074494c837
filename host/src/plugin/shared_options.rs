//! Entries of dropdowns that were asked for a moment ago, for all processes.
//!
//! Forms ask for the same entries again and again while somebody types. They are kept for a short
//! time, under everything that they were asked with, credentials included. Only where processes
//! share values: one alone asks anew.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{OptionsCall, SelectOption};
use crate::coord::sealed::SealedValues;
use crate::domain::provider::ProviderId;

/// What was added at the other end is seen after this.
const TTL: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
struct Entry {
    value: String,
    label: String,
}

/// The place of one answer.
pub(super) struct SharedOptions<'a> {
    values: &'a SealedValues,
    key: String,
}

impl<'a> SharedOptions<'a> {
    pub(super) fn of(
        values: &'a SealedValues,
        provider: &ProviderId,
        version: &str,
        call: &OptionsCall,
    ) -> Self {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        };
        part(call.resolver.as_bytes());
        part(call.context.to_string().as_bytes());
        part(call.search.as_deref().unwrap_or("\0").as_bytes());
        part(call.cache_scope.as_bytes());
        if let Some(connection) = &call.connection {
            part(connection.json.as_bytes());
            part(&connection.secrets.fingerprint());
        }
        let digest = URL_SAFE_NO_PAD.encode(hash.finalize());
        Self {
            values,
            key: format!("options/{provider}/{version}/{digest}"),
        }
    }

    pub(super) async fn get(&self) -> Option<Vec<SelectOption>> {
        let opened = self.values.get(&self.key).await?;
        let entries: Vec<Entry> = serde_json::from_slice(&opened.value).ok()?;
        let entries = entries.into_iter();
        Some(
            entries
                .map(|Entry { value, label }| SelectOption { value, label })
                .collect(),
        )
    }

    pub(super) async fn put(&self, options: &[SelectOption]) {
        let entries = options.iter().map(|option| Entry {
            value: option.value.clone(),
            label: option.label.clone(),
        });
        let entries: Vec<Entry> = entries.collect();
        if let Ok(value) = serde_json::to_vec(&entries) {
            self.values.put(&self.key, &value, TTL).await;
        }
    }
}

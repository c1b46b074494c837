//! A quick answer for what was accepted before, without a write.
//!
//! A marker is written after the commit and names its events, so that there is none for what was not
//! accepted. It is believed only when its event is on record; else the store decides, as it does
//! for whatever has no marker. A marker lives shorter than the key that the store keeps.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::Coord;
use crate::domain::id::EventId;
use crate::store::DeliveryStore;

/// Senders repeat within minutes.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Events that a marker names; a larger batch has none.
const EVENTS_MAX: usize = 100;

/// Markers of what was accepted.
#[derive(Clone)]
pub struct Markers {
    coord: Arc<dyn Coord>,
    store: Arc<dyn DeliveryStore>,
}

/// What a marker stands under: a digest of its parts, so that it tells nothing of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerKey(String);

impl MarkerKey {
    /// The key of several parts, each with its length.
    #[must_use]
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self(format!(
            "marker/{}",
            URL_SAFE_NO_PAD.encode(hash.finalize())
        ))
    }
}

impl Markers {
    /// Markers of events in `store`.
    #[must_use]
    pub fn new(coord: Arc<dyn Coord>, store: Arc<dyn DeliveryStore>) -> Self {
        Self { coord, store }
    }

    /// The events accepted under this key, as far as a marker knows and the store confirms.
    pub async fn known(&self, key: &MarkerKey) -> Option<Vec<EventId>> {
        if !self.coord.is_shared() {
            // The store answers as fast.
            return None;
        }
        let kept = self.coord.get(&key.0).await.ok()??;
        let text = String::from_utf8(kept.value).ok()?;
        let ids = text.split(' ').map(|id| id.parse::<EventId>().ok());
        let ids: Vec<EventId> = ids.collect::<Option<_>>()?;
        // They were accepted together: where the first is, the others are.
        let first = self.store.event(*ids.first()?).await;
        first.ok()??;
        Some(ids)
    }

    /// Marks events as accepted under this key. Nobody waits for it.
    pub fn remember(&self, key: MarkerKey, ids: &[EventId]) {
        if !self.coord.is_shared() || ids.is_empty() || ids.len() > EVENTS_MAX {
            return;
        }
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let coord = self.coord.clone();
        tokio::spawn(async move {
            // The first one stands. A failure costs nothing but speed.
            let _ = coord.put_new(&key.0, ids.join(" ").as_bytes(), TTL).await;
        });
    }
}

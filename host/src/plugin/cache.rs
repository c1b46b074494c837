//! Small values that outlive a call, kept apart per provider and scope.
//!
//! What this process put. Where processes share values (`coord`), they are read from there, and this
//! is the count of what each process may put. A guest must live without them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::state::CallContext;
use crate::coord::sealed::SealedValues;

const KEY_BYTES_MAX: usize = 256;
pub(super) const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

struct Entry {
    value: Vec<u8>,
    expires: Instant,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<(Arc<str>, String), Entry>,
    bytes: usize,
}

/// The cache of one provider.
#[derive(Default)]
pub(super) struct GuestCache {
    entries: Mutex<Entries>,
}

fn cost(key: &str, value: &[u8]) -> usize {
    // What the map and the allocations cost beside the bytes themselves.
    key.len() + value.len() + 128
}

impl GuestCache {
    pub(super) fn get(&self, scope: &Arc<str>, key: &str, now: Instant) -> Option<Vec<u8>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (scope.clone(), key.to_owned());
        let entry = entries.by_key.get(&at)?;
        if entry.expires > now {
            return Some(entry.value.clone());
        }
        entries.remove(&at);
        None
    }

    /// False when the value is too large, or the cache is full of values still alive.
    pub(super) fn set(
        &self,
        scope: &Arc<str>,
        key: &str,
        value: Vec<u8>,
        ttl: Duration,
        now: Instant,
        bytes_max: usize,
    ) -> bool {
        let added = cost(key, &value);
        if key.len() > KEY_BYTES_MAX || added > bytes_max {
            return false;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (scope.clone(), key.to_owned());
        entries.remove(&at);
        if entries.bytes + added > bytes_max {
            entries.drop_expired(now);
        }
        if entries.bytes + added > bytes_max {
            return false;
        }
        entries.bytes += added;
        let expires = now + ttl.min(TTL_MAX);
        entries.by_key.insert(at, Entry { value, expires });
        true
    }

    pub(super) fn delete(&self, scope: &Arc<str>, key: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.remove(&(scope.clone(), key.to_owned()));
    }
}

impl Entries {
    fn remove(&mut self, at: &(Arc<str>, String)) {
        if let Some(entry) = self.by_key.remove(at) {
            self.bytes -= cost(&at.1, &entry.value);
        }
    }

    fn drop_expired(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.by_key.retain(|(_, key), entry| {
            let alive = entry.expires > now;
            if !alive {
                *bytes -= cost(key, &entry.value);
            }
            alive
        });
    }
}

/// Where a value is that other processes share, and under which key: each version of a provider
/// begins with an empty cache. A preview shares nothing.
pub(super) fn shared_cache<'a>(
    context: &'a CallContext,
    key: &str,
) -> Option<(&'a SealedValues, String)> {
    let values = context.shared.as_deref()?;
    if context.preview.is_some() {
        return None;
    }
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(key));
    let (provider, version) = (&context.provider, &context.version);
    let scope = &context.cache_scope;
    let shared_key = format!("cache/{provider}/{version}/{scope}/{digest}");
    Some((values, shared_key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_apart_and_values_expire() {
        let cache = GuestCache::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert!(cache.set(&a, "k", vec![1], second, now, 1_000));
        assert_eq!(cache.get(&a, "k", now), Some(vec![1]));
        assert_eq!(cache.get(&b, "k", now), None);
        assert_eq!(cache.get(&a, "k", now + second), None);
    }

    #[test]
    fn the_cache_is_bounded_and_expired_values_make_room() {
        let cache = GuestCache::default();
        let scope: Arc<str> = "s".into();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert!(!cache.set(&scope, "big", vec![0; 1_000], second, now, 1_000));
        assert!(cache.set(&scope, "a", vec![0; 600], second, now, 1_000));
        assert!(!cache.set(&scope, "b", vec![0; 600], second, now, 1_000));
        assert!(
            cache.set(&scope, "a", vec![0; 700], second, now, 1_000),
            "replacing frees first"
        );
        assert!(cache.set(&scope, "b", vec![0; 600], second, now + second, 1_000));
    }
}

//! Values that may be secret: sealed by the vault before they leave the process.
//!
//! A value is sealed under its key, so that one cannot be passed off as another. What stands behind the
//! last `/` of a key may be a digest of secrets: it is digested again, under the master key, so that
//! nobody can try guesses on it. What cannot be
//! opened (sealed under a master key of before, altered) is as good as not there.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::{Coord, CoordError};
use crate::domain::delivery::FencingToken;
use crate::vault::Vault;

const ROW: &str = "coord";

/// A value with the time that is left to it.
pub struct Opened {
    /// In clear.
    pub value: Zeroizing<Vec<u8>>,
    /// Until it is forgotten.
    pub left: Duration,
}

/// Sealed values, and the locks of who makes them.
pub struct SealedValues {
    coord: Arc<dyn Coord>,
    vault: Arc<Vault>,
}

impl SealedValues {
    /// Values of `coord`, sealed by `vault`. `None` where there is nobody to share them with.
    #[must_use]
    pub fn shared(coord: Arc<dyn Coord>, vault: Arc<Vault>) -> Option<Self> {
        coord.is_shared().then_some(Self { coord, vault })
    }

    fn name(&self, key: &str) -> String {
        let (family, rest) = key.rsplit_once('/').unwrap_or(("", key));
        format!("{family}/{}", self.vault.blind(rest))
    }

    /// The value, as far as it can be had.
    pub async fn get(&self, key: &str) -> Option<Opened> {
        let kept = self.coord.get(&self.name(key)).await.ok()??;
        let sealed = std::str::from_utf8(&kept.value).ok()?;
        let text = self.vault.open(ROW, key, sealed).ok()?;
        let value = URL_SAFE_NO_PAD.decode(text.as_bytes()).ok()?;
        Some(Opened {
            value: Zeroizing::new(value),
            left: kept.left,
        })
    }

    /// Puts or replaces a value for `ttl`, as far as it can be done.
    pub async fn put(&self, key: &str, value: &[u8], ttl: Duration) {
        let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(value));
        let sealed = self.vault.seal(ROW, key, &text);
        let _ = self
            .coord
            .put(&self.name(key), sealed.as_bytes(), ttl)
            .await;
    }

    /// Forgets a value.
    pub async fn remove(&self, key: &str) {
        let _ = self.coord.remove(&self.name(key)).await;
    }

    /// The right to make a value, or `None`: another process is at it.
    ///
    /// # Errors
    /// When nobody can say.
    pub async fn begin(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<FencingToken>, CoordError> {
        self.coord.acquire(&self.name(name), ttl).await
    }

    /// Whether `token` is still the latest; what its holder made is then worth keeping.
    pub async fn still(&self, name: &str, token: FencingToken, ttl: Duration) -> bool {
        matches!(
            self.coord.extend(&self.name(name), token, ttl).await,
            Ok(true)
        )
    }

    /// Gives the right back.
    pub async fn end(&self, name: &str, token: FencingToken) {
        let _ = self.coord.release(&self.name(name), token).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coord::Values as _;
    use crate::coord::memory::Memory;
    use crate::vault::MasterKey;
    use crate::wire::SystemClock;

    fn values(coord: &Arc<dyn Coord>, key: u8) -> SealedValues {
        SealedValues {
            coord: coord.clone(),
            vault: Arc::new(Vault::new(&MasterKey::from_bytes([key; 32]), &[])),
        }
    }

    #[tokio::test]
    async fn what_leaves_the_process_is_sealed_under_its_key() {
        let memory = Arc::new(Memory::new(Arc::new(SystemClock)));
        let coord: Arc<dyn Coord> = memory.clone();
        let minute = Duration::from_secs(60);
        let ours = values(&coord, 1);
        ours.put("a", b"hunter2\xff", minute).await;
        let place = ours.name("a");
        assert_ne!(
            place,
            values(&coord, 2).name("a"),
            "the master key blinds it"
        );
        let kept = memory.get(&place).await.expect("an answer").expect("kept");
        assert!(!String::from_utf8_lossy(&kept.value).contains("hunter2"));
        let opened = ours.get("a").await.expect("opens");
        assert_eq!(*opened.value, b"hunter2\xff");
        assert!(opened.left <= minute && !opened.left.is_zero());
        // Put elsewhere, or under another master key, it is not there.
        let other = ours.name("b");
        memory.put(&other, &kept.value, minute).await.expect("put");
        assert!(ours.get("b").await.is_none());
        assert!(values(&coord, 2).get("a").await.is_none());
        ours.remove("a").await;
        assert!(ours.get("a").await.is_none());
    }
}

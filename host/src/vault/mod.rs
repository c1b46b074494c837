//! Encryption of secrets at rest.
//!
//! Invariant: a secret leaf of a stored document is sealed under the row and the place it stands
//! in, so that it cannot be moved to another; plain text exists only between opening and use.
//!
//! A sealed leaf is `{"$sealed": "v1.<key id>.<nonce and ciphertext>"}`, XChaCha20-Poly1305
//! (draft-irtf-cfrg-xchacha) with a random 192-bit nonce, base64url; the associated data is
//! version, key id, row and JSON Pointer.

pub mod document;
pub mod key;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use key::{KeyError, KeyRing, MasterKey};

const VERSION: &str = "v1";
const NONCE_BYTES: usize = 24;

/// What cannot be sealed or opened. Never says what the secret is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Sealed under a key that is not at hand.
    #[error(
        "{place} is sealed under the key {key_id}, which is not loaded: put that key back, or enter the secret again"
    )]
    UnknownKey {
        /// JSON Pointer.
        place: String,
        /// The missing key.
        key_id: String,
    },
    /// Altered, or moved from another place.
    #[error("{0}: the sealed value was altered or moved; enter the secret again")]
    Tampered(String),
    /// The API's input holds what only the gateway may write.
    #[error("{0}: a secret is a plain string")]
    Smuggled(String),
}

/// Seals and opens secrets with a ring of master keys, which can be replaced while it is used.
pub struct Vault {
    ring: ArcSwap<Ciphers>,
}

struct Ciphers {
    current: String,
    by_id: BTreeMap<String, XChaCha20Poly1305>,
    blinding: Zeroizing<[u8; 32]>,
}

impl Ciphers {
    fn new<'k>(current: &MasterKey, others: impl IntoIterator<Item = &'k MasterKey>) -> Self {
        let cipher = |key: &MasterKey| (key.id(), XChaCha20Poly1305::new(key.bytes().into()));
        let others = others.into_iter().map(cipher);
        Self {
            current: current.id(),
            by_id: others.chain([cipher(current)]).collect(),
            blinding: Zeroizing::new(
                Sha256::new_with_prefix(b"hookport vault blinding\0")
                    .chain_update(current.bytes())
                    .finalize()
                    .into(),
            ),
        }
    }
}

/// The keys of a vault, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysInUse {
    /// What it seals with.
    pub seals: String,
    /// What it opens with.
    pub opens: BTreeSet<String>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault")
            .field("current", &self.ring.load().current)
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// A vault that seals with `current` and opens with it and with `previous` keys.
    #[must_use]
    pub fn new(current: &MasterKey, previous: &[MasterKey]) -> Self {
        Self {
            ring: ArcSwap::from_pointee(Ciphers::new(current, previous)),
        }
    }

    /// Seals and opens with these keys from now on.
    pub fn replace(&self, ring: &KeyRing) {
        let ciphers = Ciphers::new(&ring.sealing, &ring.others);
        self.ring.store(Arc::new(ciphers));
    }

    /// What it seals and opens with.
    #[must_use]
    pub fn keys(&self) -> KeysInUse {
        let ring = self.ring.load();
        KeysInUse {
            seals: ring.current.clone(),
            opens: ring.by_id.keys().cloned().collect(),
        }
    }

    /// A digest of `text` that only who has the current master key can make (HMAC-SHA256).
    #[must_use]
    pub fn blind(&self, text: &str) -> String {
        // A key of any length is taken.
        let mac = Hmac::<Sha256>::new_from_slice(&*self.ring.load().blinding);
        let digest = mac.map(|mac| mac.chain_update(text).finalize().into_bytes());
        digest.map_or_else(|_| String::new(), |digest| URL_SAFE_NO_PAD.encode(digest))
    }

    /// Seals `secret` for one place of one row, such as `subscription/sub_…` and `/auth/token`.
    #[must_use]
    pub fn seal(&self, row: &str, place: &str, secret: &str) -> String {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let ring = self.ring.load();
        let aad = associated_data(&ring.current, row, place);
        let cipher = ring.by_id.get(&ring.current);
        let sealed = cipher.and_then(|cipher| {
            let payload = Payload {
                msg: secret.as_bytes(),
                aad: aad.as_bytes(),
            };
            cipher.encrypt(&XNonce::from(nonce), payload).ok()
        });
        // Fails only for texts beyond 256 GiB; an empty ciphertext can never be opened.
        let mut bytes = nonce.to_vec();
        bytes.extend(sealed.unwrap_or_default());
        format!(
            "{VERSION}.{}.{}",
            ring.current,
            URL_SAFE_NO_PAD.encode(bytes)
        )
    }

    /// Opens what [`Vault::seal`] made for the same row and place.
    ///
    /// # Errors
    /// `UnknownKey`, `Tampered`.
    pub fn open(
        &self,
        row: &str,
        place: &str,
        sealed: &str,
    ) -> Result<Zeroizing<String>, VaultError> {
        let tampered = || VaultError::Tampered(place.to_owned());
        let mut parts = sealed.splitn(3, '.');
        let (Some(VERSION), Some(key_id), Some(body)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(tampered());
        };
        let ring = self.ring.load();
        let cipher = ring
            .by_id
            .get(key_id)
            .ok_or_else(|| VaultError::UnknownKey {
                place: place.to_owned(),
                key_id: key_id.to_owned(),
            })?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| tampered())?;
        let (nonce, ciphertext) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or_else(tampered)?;
        let aad = associated_data(key_id, row, place);
        let payload = Payload {
            msg: ciphertext,
            aad: aad.as_bytes(),
        };
        let plain = cipher
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| tampered())?;
        String::from_utf8(plain)
            .map(Zeroizing::new)
            .map_err(|_| tampered())
    }
}

impl KeyRing {
    /// Its keys by their names.
    #[must_use]
    pub fn names(&self) -> KeysInUse {
        let all = std::iter::once(&self.sealing).chain(&self.others);
        KeysInUse {
            seals: self.sealing.id(),
            opens: all.map(MasterKey::id).collect(),
        }
    }
}

/// The name of the key that a sealed value is under.
fn key_of(sealed: &str) -> Option<&str> {
    let mut parts = sealed.splitn(3, '.');
    (parts.next() == Some(VERSION)).then(|| parts.next())?
}

fn associated_data(key_id: &str, row: &str, place: &str) -> String {
    format!("{VERSION}\n{key_id}\n{row}\n{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(byte: u8) -> Vault {
        Vault::new(&MasterKey::from_bytes([byte; 32]), &[])
    }

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let vault = vault(1);
        let sealed = vault.seal("subscription/a", "/token", "hunter2");
        assert!(!sealed.contains("hunter2"));
        assert_eq!(
            vault
                .open("subscription/a", "/token", &sealed)
                .expect("opens")
                .as_str(),
            "hunter2"
        );
        let tampered = Err(VaultError::Tampered("/token".to_owned()));
        assert_eq!(
            vault.open("subscription/b", "/token", &sealed),
            tampered,
            "moved to another row"
        );
        assert!(
            vault.open("subscription/a", "/other", &sealed).is_err(),
            "moved to another place"
        );
        let mut altered = sealed.clone();
        let last = if altered.pop() == Some('A') { 'B' } else { 'A' };
        altered.push(last);
        altered.insert(sealed.len() / 2, 'x');
        assert!(vault.open("subscription/a", "/token", &altered).is_err());
    }

    #[test]
    fn another_key_is_named_and_an_old_one_still_opens() {
        let sealed = vault(1).seal("r", "/p", "secret");
        assert!(matches!(
            vault(2).open("r", "/p", &sealed),
            Err(VaultError::UnknownKey { .. })
        ));
        let rotated = Vault::new(
            &MasterKey::from_bytes([2; 32]),
            &[MasterKey::from_bytes([1; 32])],
        );
        assert_eq!(
            rotated.open("r", "/p", &sealed).expect("opens").as_str(),
            "secret"
        );
    }

    #[test]
    fn a_replaced_ring_holds_from_then_on() {
        let vault = vault(1);
        let before = vault.seal("r", "/p", "secret");
        vault.replace(&KeyRing {
            sealing: MasterKey::from_bytes([2; 32]),
            others: vec![MasterKey::from_bytes([1; 32])],
        });
        let after = vault.seal("r", "/p", "secret");
        assert_ne!(key_of(&before), key_of(&after));
        assert_eq!(key_of(&after), Some(vault.keys().seals.as_str()));
        for sealed in [&before, &after] {
            assert_eq!(
                vault.open("r", "/p", sealed).expect("opens").as_str(),
                "secret"
            );
        }
    }
}

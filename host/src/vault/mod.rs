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

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use key::{KeyError, MasterKey};

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

/// Seals and opens secrets with a ring of master keys.
pub struct Vault {
    current: String,
    blinding: Zeroizing<[u8; 32]>,
    ciphers: BTreeMap<String, XChaCha20Poly1305>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault")
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

/// A key's name in sealed values: the beginning of a digest of it.
fn key_id(key: &MasterKey) -> String {
    let digest = Sha256::new_with_prefix(b"hookport vault key id\0")
        .chain_update(key.bytes())
        .finalize();
    URL_SAFE_NO_PAD.encode(&digest[..6])
}

impl Vault {
    /// A vault that seals with `current` and opens with it and with `previous` keys.
    #[must_use]
    pub fn new(current: &MasterKey, previous: &[MasterKey]) -> Self {
        let ciphers = std::iter::once(current)
            .chain(previous)
            .map(|key| (key_id(key), XChaCha20Poly1305::new(key.bytes().into())))
            .collect();
        Self {
            current: key_id(current),
            blinding: Zeroizing::new(
                Sha256::new_with_prefix(b"hookport vault blinding\0")
                    .chain_update(current.bytes())
                    .finalize()
                    .into(),
            ),
            ciphers,
        }
    }

    /// A digest of `text` that only who has the current master key can make (HMAC-SHA256).
    #[must_use]
    pub fn blind(&self, text: &str) -> String {
        // A key of any length is taken.
        let mac = Hmac::<Sha256>::new_from_slice(&*self.blinding);
        let digest = mac.map(|mac| mac.chain_update(text).finalize().into_bytes());
        digest.map_or_else(|_| String::new(), |digest| URL_SAFE_NO_PAD.encode(digest))
    }

    /// Seals `secret` for one place of one row, such as `subscription/sub_…` and `/auth/token`.
    #[must_use]
    pub fn seal(&self, row: &str, place: &str, secret: &str) -> String {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let aad = associated_data(&self.current, row, place);
        let cipher = self.ciphers.get(&self.current);
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
            self.current,
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
        let cipher = self
            .ciphers
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
}

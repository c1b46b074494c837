//! Where the master key comes from.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// The environment variable that overrides the file: 32 bytes in base64.
pub const VARIABLE: &str = "HOOKPORT_MASTER_KEY";

/// 256 bits that every secret is sealed under.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

/// Why there is no usable master key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes in base64.
    #[error("{0} must hold 32 bytes in base64; make some with: openssl rand -base64 32")]
    Malformed(String),
    /// Others can read the file.
    #[error("{path} has mode {mode:04o}, so that others can read the master key: chmod 600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is none and none may be made.
    #[error("no master key: set {VARIABLE}, or put 32 bytes in base64 into {0} with mode 0600")]
    Missing(PathBuf),
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Whether a missing key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenMissing {
    /// The embedded default: make one and say so.
    Create,
    /// Production back ends: several processes must share one key, which nobody made.
    Refuse,
}

impl MasterKey {
    /// A key from bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn parse(source: &str, text: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed(source.to_owned());
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| malformed())?);
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| malformed())?;
        Ok(Self::from_bytes(bytes))
    }

    /// The key from `variable` (the value of [`VARIABLE`]), else from the file.
    ///
    /// # Errors
    /// Each kind of [`KeyError`].
    pub fn load(
        variable: Option<&str>,
        path: &Path,
        when_missing: WhenMissing,
    ) -> Result<Self, KeyError> {
        if let Some(text) = variable {
            return Self::parse(VARIABLE, text);
        }
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        match fs::metadata(path) {
            Ok(metadata) => {
                let mode = metadata.permissions().mode() & 0o7777;
                if mode & 0o077 != 0 {
                    return Err(KeyError::Mode {
                        path: path.to_owned(),
                        mode,
                    });
                }
                let text = Zeroizing::new(fs::read_to_string(path).map_err(io)?);
                Self::parse(&path.display().to_string(), &text)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match when_missing {
                WhenMissing::Create => Self::create(path),
                WhenMissing::Refuse => Err(KeyError::Missing(path.to_owned())),
            },
            Err(error) => Err(io(error)),
        }
    }

    fn create(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let key = Self::from_bytes(rand::random());
        let text = Zeroizing::new(STANDARD.encode(key.bytes()));
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        tracing::warn!(
            path = %path.display(),
            "NEW MASTER KEY: a key for the secrets at rest was created. Back this file up apart from the database: without it no stored secret can be read"
        );
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_once_with_mode_0600_and_read_again() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("vault.key");
        let made = MasterKey::load(None, &path, WhenMissing::Create).expect("created");
        let mode = fs::metadata(&path).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = MasterKey::load(None, &path, WhenMissing::Refuse).expect("read");
        assert_eq!(made.bytes(), read.bytes());
    }

    #[test]
    fn refused_when_missing_readable_by_others_or_malformed() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("vault.key");
        let missing = MasterKey::load(None, &path, WhenMissing::Refuse);
        assert!(matches!(missing, Err(KeyError::Missing(_))));
        fs::write(&path, STANDARD.encode([7; 32])).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode");
        let readable = MasterKey::load(None, &path, WhenMissing::Refuse);
        assert!(matches!(readable, Err(KeyError::Mode { .. })));
        let short = MasterKey::load(Some("c2hvcnQ="), &path, WhenMissing::Refuse);
        assert!(matches!(short, Err(KeyError::Malformed(_))));
        let variable = STANDARD.encode([9; 32]);
        let key = MasterKey::load(Some(&variable), &path, WhenMissing::Refuse).expect("variable");
        assert_eq!(key.bytes(), &[9; 32]);
    }
}

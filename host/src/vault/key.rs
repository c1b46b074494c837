//! Where the master keys come from.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The environment variable that overrides the file: 32 bytes in base64.
pub const VARIABLE: &str = "HOOKPORT_MASTER_KEY";

/// Beside it, keys that are opened with and never sealed with: each 32 bytes in base64, with commas
/// between them.
pub const OTHERS_VARIABLE: &str = "HOOKPORT_MASTER_KEY_OTHERS";

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

    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self::from_bytes(rand::random())
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its name in sealed values: the beginning of a digest of it.
    #[must_use]
    pub fn id(&self) -> String {
        let digest = Sha256::new_with_prefix(b"hookport vault key id\0")
            .chain_update(self.bytes())
            .finalize();
        URL_SAFE_NO_PAD.encode(&digest[..6])
    }

    fn parse(source: &str, text: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed(source.to_owned());
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| malformed())?);
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| malformed())?;
        Ok(Self::from_bytes(bytes))
    }
}

/// What the environment says of keys.
#[derive(Default)]
pub struct Variables {
    /// The value of [`VARIABLE`].
    pub key: Option<String>,
    /// The value of [`OTHERS_VARIABLE`].
    pub others: Option<String>,
}

/// The key that secrets are sealed with, and others that are only opened with: the one before it,
/// or the one to come.
#[derive(Debug)]
pub struct KeyRing {
    /// Seals and opens.
    pub sealing: MasterKey,
    /// Open only.
    pub others: Vec<MasterKey>,
}

impl KeyRing {
    /// The keys of the variables, else of the file: one a line, the one that seals first.
    ///
    /// # Errors
    /// Each kind of [`KeyError`].
    pub fn load(
        variables: &Variables,
        path: &Path,
        when_missing: WhenMissing,
    ) -> Result<Self, KeyError> {
        let mut ring = match &variables.key {
            Some(text) => Self {
                sealing: MasterKey::parse(VARIABLE, text)?,
                others: Vec::new(),
            },
            None => Self::of_file(path, when_missing)?,
        };
        for text in variables.others.iter().flat_map(|text| text.split(',')) {
            if !text.trim().is_empty() {
                ring.others.push(MasterKey::parse(OTHERS_VARIABLE, text)?);
            }
        }
        Ok(ring)
    }

    fn of_file(path: &Path, when_missing: WhenMissing) -> Result<Self, KeyError> {
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
                let source = path.display().to_string();
                let mut keys = text
                    .lines()
                    .filter(|line| !line.trim().is_empty())
                    .map(|line| MasterKey::parse(&source, line));
                let sealing = keys
                    .next()
                    .ok_or_else(|| KeyError::Malformed(source.clone()))??;
                Ok(Self {
                    sealing,
                    others: keys.collect::<Result<_, _>>()?,
                })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match when_missing {
                WhenMissing::Create => Self::create(path),
                WhenMissing::Refuse => Err(KeyError::Missing(path.to_owned())),
            },
            Err(error) => Err(io(error)),
        }
    }

    fn create(path: &Path) -> Result<Self, KeyError> {
        let ring = Self {
            sealing: MasterKey::random(),
            others: Vec::new(),
        };
        let mut file = fs::File::options();
        let file = file.write(true).create_new(true).mode(0o600).open(path);
        let written = file.and_then(|file| ring.write(file));
        written.map_err(|source| KeyError::Io {
            path: path.to_owned(),
            source,
        })?;
        tracing::warn!(
            path = %path.display(),
            "NEW MASTER KEY: a key for the secrets at rest was created. Back this file up apart from the database: without it no stored secret can be read"
        );
        Ok(ring)
    }

    /// Puts these keys in the place of those in the file, in one step.
    ///
    /// # Errors
    /// `Io`: the file is as it was.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let part = path.with_extension("key.part");
        let saved = || {
            let mut file = fs::File::options();
            let file = file.write(true).create(true).truncate(true).mode(0o600);
            self.write(file.open(&part)?)?;
            fs::rename(&part, path)?;
            // The name is durable with its directory.
            let directory = path.parent().filter(|parent| *parent != Path::new(""));
            fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
        };
        saved().map_err(|source| KeyError::Io {
            path: path.to_owned(),
            source,
        })
    }

    fn write(&self, mut file: fs::File) -> std::io::Result<()> {
        let mut text = Zeroizing::new(String::new());
        for key in std::iter::once(&self.sealing).chain(&self.others) {
            text.push_str(&Zeroizing::new(STANDARD.encode(key.bytes())));
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ring: &KeyRing) -> Vec<String> {
        let keys = std::iter::once(&ring.sealing).chain(&ring.others);
        keys.map(MasterKey::id).collect()
    }

    fn key(text: &str) -> Variables {
        Variables {
            key: Some(text.to_owned()),
            others: None,
        }
    }

    fn none() -> Variables {
        Variables::default()
    }

    #[test]
    fn created_once_with_mode_0600_and_read_again() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("vault.key");
        let made = KeyRing::load(&none(), &path, WhenMissing::Create).expect("created");
        let mode = fs::metadata(&path).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = KeyRing::load(&none(), &path, WhenMissing::Refuse).expect("read");
        assert_eq!(ids(&made), ids(&read));
    }

    #[test]
    fn several_keys_are_kept_in_their_order() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("vault.key");
        KeyRing::load(&none(), &path, WhenMissing::Create).expect("created");
        let ring = KeyRing {
            sealing: MasterKey::from_bytes([1; 32]),
            others: vec![MasterKey::from_bytes([2; 32]), MasterKey::random()],
        };
        ring.save(&path).expect("saved");
        let mode = fs::metadata(&path).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = KeyRing::load(&none(), &path, WhenMissing::Refuse).expect("read");
        assert_eq!(ids(&ring), ids(&read));
        let variables = Variables {
            key: Some(STANDARD.encode([3; 32])),
            others: Some(format!(
                "{}, {}",
                STANDARD.encode([1; 32]),
                STANDARD.encode([2; 32])
            )),
        };
        let ring = KeyRing::load(&variables, &path, WhenMissing::Refuse).expect("variables");
        let expected = [3, 1, 2].map(|byte| MasterKey::from_bytes([byte; 32]).id());
        assert_eq!(ids(&ring), expected);
    }

    #[test]
    fn refused_when_missing_readable_by_others_or_malformed() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("vault.key");
        let load = |variables: &Variables| KeyRing::load(variables, &path, WhenMissing::Refuse);
        assert!(matches!(load(&none()), Err(KeyError::Missing(_))));
        fs::write(&path, STANDARD.encode([7; 32])).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode");
        assert!(matches!(load(&none()), Err(KeyError::Mode { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        for text in ["", "\n", "nonsense", "c2hvcnQ=\n"] {
            fs::write(&path, text).expect("write");
            assert!(
                matches!(load(&none()), Err(KeyError::Malformed(_))),
                "{text:?}"
            );
        }
        assert!(matches!(
            load(&key("c2hvcnQ=")),
            Err(KeyError::Malformed(_))
        ));
        let mut variables = key(&STANDARD.encode([9; 32]));
        assert_eq!(
            load(&variables).expect("variable").sealing.bytes(),
            &[9; 32]
        );
        variables.others = Some("nonsense".to_owned());
        let error = load(&variables).expect_err("malformed").to_string();
        assert!(error.contains(OTHERS_VARIABLE), "{error}");
    }
}

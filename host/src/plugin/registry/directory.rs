//! Looking at the providers directory, without trusting what lies there.
//!
//! Only regular files whose name ends in `.wasm` count. A symbolic link is reported and not
//! followed: it would let whoever can write its target change a provider.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::apart;
use crate::domain::clock::Timestamp;

/// Files looked at; more than this is a mistake.
const FILES_MAX: usize = 1_000;
const EXTENSION: &str = ".wasm";

/// Tells two states of one file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// When the file last changed in any way.
    pub(super) fn changed_at(&self) -> Timestamp {
        let (seconds, nanoseconds) = self.changed;
        Timestamp(
            seconds
                .saturating_mul(1_000)
                .saturating_add(nanoseconds / 1_000_000),
        )
    }
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A regular file.
    File(Signature),
    /// Something that is never loaded, and why.
    Odd(&'static str),
}

/// What is there, by file name.
///
/// # Errors
/// When the directory cannot be listed: nothing is known then.
pub(super) fn scan(directory: &Path) -> io::Result<BTreeMap<String, Found>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || !name.ends_with(EXTENSION) {
            continue;
        }
        if found.len() >= FILES_MAX {
            tracing::warn!(
                directory = %directory.display(),
                "more than {FILES_MAX} components in the providers directory: the rest is ignored"
            );
            break;
        }
        // Gone between listing and looking: as if it had never been listed.
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        let what = if metadata.is_symlink() {
            Found::Odd("a symbolic link, which is not followed: copy the component itself")
        } else if !metadata.is_file() {
            Found::Odd("not a regular file")
        } else if entry.file_name().to_str().is_none() {
            Found::Odd("its name is not UTF-8")
        } else {
            Found::File(Signature::of(&metadata))
        };
        found.insert(name, what);
    }
    Ok(found)
}

/// The file's signature, `None` when there is none.
pub(super) fn signature(path: &Path) -> Option<Signature> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then(|| Signature::of(&metadata))
}

/// A file's content, read whole.
pub(super) struct Content {
    pub(super) bytes: Bytes,
    /// SHA-256, hexadecimal.
    pub(super) digest: String,
}

/// Why a file's content was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// Look again later.
    #[error("changed or vanished while it was read")]
    Changing,
    /// Of the limit in the call.
    #[error("larger than allowed")]
    TooLarge,
    /// The file system failed.
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
}

/// Reads a file if it still is as `expected`, before and after.
pub(super) fn read(path: &Path, expected: Signature, bytes_max: u64) -> Result<Content, ReadError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap_or(0))
        .open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Changing),
        Err(error) => return Err(ReadError::Io(error)),
    };
    let unchanged = |file: &File| -> Result<bool, ReadError> {
        let metadata = file.metadata().map_err(ReadError::Io)?;
        Ok(metadata.is_file() && Signature::of(&metadata) == expected)
    };
    if !unchanged(&file)? {
        return Err(ReadError::Changing);
    }
    if expected.size > bytes_max {
        return Err(ReadError::TooLarge);
    }
    let bytes = match apart::read(&mut file, expected.size) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ReadError::Changing);
        }
        Err(error) => return Err(ReadError::Io(error)),
    };
    if !unchanged(&file)? {
        return Err(ReadError::Changing);
    }
    Ok(Content {
        digest: hexadecimal(&Sha256::digest(&bytes)),
        bytes,
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_wasm_files_count() {
        let home = tempfile::tempdir().expect("dir");
        let at = |name: &str| home.path().join(name);
        for name in ["a.wasm", "b.wasm.part", ".c.wasm", "grants.toml"] {
            fs::write(at(name), b"x").expect("written");
        }
        fs::create_dir(at("d.wasm")).expect("made");
        std::os::unix::fs::symlink(at("a.wasm"), at("e.wasm")).expect("linked");
        let found = scan(home.path()).expect("listed");
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.wasm", "d.wasm", "e.wasm"]);
        assert!(matches!(found["a.wasm"], Found::File(_)));
        assert_eq!(found["d.wasm"], Found::Odd("not a regular file"));
        let Found::Odd(reason) = found["e.wasm"] else {
            panic!("a link must not be loaded");
        };
        assert!(reason.contains("symbolic link"));
    }

    #[test]
    fn a_file_that_is_no_longer_as_it_was_is_not_taken() {
        let home = tempfile::tempdir().expect("dir");
        let path = home.path().join("a.wasm");
        fs::write(&path, b"abc").expect("written");
        let before = signature(&path).expect("there");
        let content = read(&path, before, 10).expect("read");
        assert_eq!(content.bytes, &b"abc"[..]);
        assert!(content.digest.starts_with("ba7816bf"), "{}", content.digest);
        assert!(matches!(read(&path, before, 2), Err(ReadError::TooLarge)));
        fs::write(&path, b"abcd").expect("written");
        assert!(matches!(read(&path, before, 10), Err(ReadError::Changing)));
        fs::remove_file(&path).expect("removed");
        assert!(matches!(read(&path, before, 10), Err(ReadError::Changing)));
    }
}

//! Compiled artefacts on disk, so that a restart does not compile.
//!
//! Invariant: what [`CodeCache::get`] returns was written by a gateway that held the key, for the
//! same component and the same engine, and was not changed since: each file carries an
//! HMAC-SHA256 over all three. Anything else in the directory is a miss. The key lies beside the
//! artefacts, readable by the gateway's user alone; who can read it can run code as that user
//! anyway.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::apart;
use crate::plugin::artefact::TrustedArtefact;

const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;
const EXTENSION: &str = "artefact";
const MAGIC: &[u8; 16] = b"hookport-code-1\n";
const TAG_BYTES: usize = 32;

/// How much is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeCacheLimits {
    /// Files.
    pub entries_max: usize,
    /// Bytes, summed.
    pub bytes_max: u64,
}

impl Default for CodeCacheLimits {
    fn default() -> Self {
        Self {
            entries_max: 128,
            bytes_max: 1 << 30,
        }
    }
}

/// The directory cannot be used safely.
#[derive(Debug, thiserror::Error)]
pub enum CodeCacheError {
    /// Someone else could have written there.
    #[error("the code cache {path} is {problem}; remove it, or name another data directory")]
    Untrusted {
        /// What.
        path: PathBuf,
        /// Why not.
        problem: &'static str,
    },
    /// The file system failed.
    #[error("the code cache {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A directory of artefacts that only this gateway's user may enter.
pub struct CodeCache {
    directory: PathBuf,
    engine: u64,
    key: Zeroizing<[u8; KEY_BYTES]>,
    limits: CodeCacheLimits,
    /// Tells temporary files of this process apart.
    writes: AtomicU64,
}

impl std::fmt::Debug for CodeCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CodeCache({})", self.directory.display())
    }
}

impl CodeCache {
    /// Opens or creates the cache for the engine that `engine` identifies. A directory or key
    /// that others could read or write is closed to them; the key is then replaced, which makes
    /// every artefact there a miss.
    ///
    /// # Errors
    /// `Untrusted` when the directory is a link or belongs to someone else, `Io`.
    pub fn open(
        directory: &Path,
        engine: u64,
        limits: CodeCacheLimits,
    ) -> Result<Self, CodeCacheError> {
        let io = |source| CodeCacheError::Io {
            path: directory.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(io)?;
        let untrusted = |problem| CodeCacheError::Untrusted {
            path: directory.to_owned(),
            problem,
        };
        let metadata = fs::symlink_metadata(directory).map_err(io)?;
        if metadata.is_symlink() {
            return Err(untrusted("a symbolic link"));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(untrusted("owned by another user"));
        }
        let open_to_others = metadata.mode() & 0o077 != 0;
        if open_to_others {
            tracing::warn!(
                path = %directory.display(),
                "the code cache was open to other users; it is closed now and everything is compiled anew"
            );
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(io)?;
        }
        let key = if open_to_others {
            create_key(directory).map_err(io)?
        } else {
            match read_key(directory).map_err(io)? {
                Some(key) => key,
                None => create_key(directory).map_err(io)?,
            }
        };
        let cache = Self {
            directory: directory.to_owned(),
            engine,
            key,
            limits,
            writes: AtomicU64::new(0),
        };
        cache.remove_leftovers();
        Ok(cache)
    }

    /// The artefact of the component with this SHA-256, if a sound one is there.
    #[must_use]
    pub fn get(&self, digest: &str) -> Option<TrustedArtefact> {
        let path = self.path(digest);
        match self.read(&path, digest) {
            Ok(Some(artefact)) => Some(artefact),
            Ok(None) => {
                tracing::warn!(
                    path = %path.display(),
                    "a cached artefact is damaged or not this gateway's; it is removed and the component compiled anew"
                );
                self.remove(&path);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a cached artefact cannot be read");
                self.remove(&path);
                None
            }
        }
    }

    fn read(&self, path: &Path, digest: &str) -> io::Result<Option<TrustedArtefact>> {
        let mut file = open_no_follow(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file()
            || metadata.uid() != rustix::process::geteuid().as_raw()
            || metadata.mode() & 0o022 != 0
            || metadata.len() > self.limits.bytes_max
        {
            return Ok(None);
        }
        let mut header = [0; MAGIC.len() + TAG_BYTES];
        if file.read_exact(&mut header).is_err() {
            return Ok(None);
        }
        let len = metadata.len().saturating_sub(header.len() as u64);
        let artefact = apart::read(&mut file, len)?;
        let (magic, tag) = header.split_at(MAGIC.len());
        let Some(mac) = self.mac(digest, &artefact) else {
            return Ok(None);
        };
        if magic != MAGIC || mac.verify_slice(tag).is_err() {
            return Ok(None);
        }
        // The time of last use decides what goes first; losing it costs one recompilation.
        let _ = rustix::fs::futimens(
            &file,
            &Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW,
                },
            },
        );
        Ok(Some(TrustedArtefact::vouch(artefact)))
    }

    /// Keeps an artefact, atomically, and removes the least recently used ones over the limits.
    /// A cache that cannot be written is reported and does no other harm.
    pub fn put(&self, digest: &str, artefact: &TrustedArtefact) {
        if let Err(error) = self.write(digest, artefact.bytes()) {
            tracing::warn!(
                path = %self.directory.display(), %error,
                "a compiled component cannot be cached; it will be compiled again at the next start"
            );
        }
        self.trim(&self.path(digest));
    }

    fn write(&self, digest: &str, artefact: &[u8]) -> io::Result<()> {
        let Some(mac) = self.mac(digest, artefact) else {
            return Err(io::Error::other("no authentication tag"));
        };
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .directory
            .join(format!("{}-{number}.tmp", std::process::id()));
        let result = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(MAGIC)?;
            file.write_all(&mac.finalize().into_bytes())?;
            file.write_all(artefact)?;
            fs::rename(&temporary, self.path(digest))
        })();
        if result.is_err() {
            self.remove(&temporary);
        }
        result
    }

    fn mac(&self, digest: &str, artefact: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.as_slice()).ok()?;
        mac.update(MAGIC);
        mac.update(&self.engine.to_be_bytes());
        mac.update(&u64::try_from(digest.len()).ok()?.to_be_bytes());
        mac.update(digest.as_bytes());
        mac.update(artefact);
        Some(mac)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.directory
            .join(format!("{digest}-{:016x}.{EXTENSION}", self.engine))
    }

    fn trim(&self, keep: &Path) {
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = self
            .files_ending(EXTENSION)
            .filter_map(|path| {
                let metadata = fs::symlink_metadata(&path).ok()?;
                Some((metadata.modified().ok()?, metadata.len(), path))
            })
            .collect();
        entries.sort();
        let mut count = entries.len();
        let mut bytes: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in entries {
            if count <= self.limits.entries_max && bytes <= self.limits.bytes_max {
                break;
            }
            if path != keep {
                self.remove(&path);
                count -= 1;
                bytes = bytes.saturating_sub(size);
            }
        }
    }

    /// Temporary files of a process that died while writing. One of a process that still lives
    /// may go too: its rename then fails, and it compiles again.
    fn remove_leftovers(&self) {
        for path in self.files_ending("tmp") {
            self.remove(&path);
        }
    }

    fn files_ending(&self, extension: &'static str) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(move |path| path.extension().is_some_and(|found| found == extension))
    }

    fn remove(&self, path: &Path) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot be removed from the code cache");
            }
            _ => {}
        }
    }
}

fn open_no_follow(path: &Path) -> io::Result<File> {
    // Non-blocking, so that a FIFO put there does not hang the gateway.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap_or(0))
        .open(path)
}

/// The key, unless there is none or someone else could have seen or made it.
fn read_key(directory: &Path) -> io::Result<Option<Zeroizing<[u8; KEY_BYTES]>>> {
    let path = directory.join(KEY_FILE);
    let mut file = match open_no_follow(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // ELOOP: a link is no key of ours.
        Err(error) if fs::symlink_metadata(&path)?.is_symlink() => {
            tracing::warn!(path = %path.display(), %error, "the code cache's key is a symbolic link; it is replaced");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let sound = metadata.is_file()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o077 == 0
        && metadata.len() == key.len() as u64
        && file.read_exact(key.as_mut_slice()).is_ok();
    if !sound {
        tracing::warn!(
            path = %path.display(),
            "the code cache's key is damaged or open to other users; it is replaced and everything compiled anew"
        );
    }
    Ok(sound.then_some(key))
}

fn create_key(directory: &Path) -> io::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(key.as_mut_slice());
    let temporary = directory.join(format!("{}-key.tmp", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(key.as_slice())?;
    fs::rename(&temporary, directory.join(KEY_FILE))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const DIGEST: &str = "00ff";

    fn open(directory: &Path) -> CodeCache {
        CodeCache::open(directory, 7, CodeCacheLimits::default()).expect("opens")
    }

    fn put(cache: &CodeCache, digest: &str, text: &str) {
        cache.put(digest, &TrustedArtefact::vouch(text.as_bytes().to_vec()));
    }

    fn get(cache: &CodeCache, digest: &str) -> Option<String> {
        let artefact = cache.get(digest)?;
        Some(String::from_utf8_lossy(artefact.bytes()).into_owned())
    }

    #[test]
    fn an_artefact_survives_a_restart_and_nothing_else_matches() {
        let home = tempfile::tempdir().expect("dir");
        let directory = home.path().join("a/code-cache");
        put(&open(&directory), DIGEST, "code");
        let cache = open(&directory);
        assert_eq!(get(&cache, DIGEST).as_deref(), Some("code"));
        assert_eq!(get(&cache, "00fe"), None);
        let other = CodeCache::open(&directory, 8, CodeCacheLimits::default()).expect("opens");
        assert_eq!(get(&other, DIGEST), None);
        let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join(KEY_FILE)), 0o600);
        assert_eq!(mode(&cache.path(DIGEST)), 0o600);
    }

    #[test]
    fn a_changed_byte_anywhere_is_a_miss_and_the_file_goes() {
        let home = tempfile::tempdir().expect("dir");
        let cache = open(home.path());
        put(&cache, DIGEST, "code");
        let path = cache.path(DIGEST);
        let sound = fs::read(&path).expect("there");
        for at in 0..sound.len() {
            let mut bad = sound.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("written");
            assert_eq!(get(&cache, DIGEST), None, "byte {at}");
            assert!(!path.exists());
        }
        fs::write(&path, &sound[..sound.len() - 1]).expect("written");
        assert_eq!(get(&cache, DIGEST), None);
        fs::write(&path, &sound[..5]).expect("written");
        assert_eq!(get(&cache, DIGEST), None);
    }

    #[test]
    fn an_artefact_renamed_to_another_digest_is_a_miss() {
        let home = tempfile::tempdir().expect("dir");
        let cache = open(home.path());
        put(&cache, DIGEST, "code");
        fs::rename(cache.path(DIGEST), cache.path("aa")).expect("renamed");
        assert_eq!(get(&cache, "aa"), None);
    }

    #[test]
    fn links_and_another_gateways_files_are_misses() {
        let home = tempfile::tempdir().expect("dir");
        let (ours, theirs) = (home.path().join("ours"), home.path().join("theirs"));
        let (cache, other) = (open(&ours), open(&theirs));
        put(&other, DIGEST, "evil");
        fs::copy(other.path(DIGEST), cache.path(DIGEST)).expect("copied");
        assert_eq!(get(&cache, DIGEST), None);
        put(&cache, DIGEST, "code");
        fs::rename(cache.path(DIGEST), ours.join("elsewhere")).expect("renamed");
        symlink(ours.join("elsewhere"), cache.path(DIGEST)).expect("linked");
        assert_eq!(get(&cache, DIGEST), None);
    }

    #[test]
    fn a_directory_or_key_open_to_others_loses_its_trust() {
        let home = tempfile::tempdir().expect("dir");
        for what in ["", KEY_FILE] {
            put(&open(home.path()), DIGEST, "code");
            let path = home.path().join(what);
            let mode = if what.is_empty() { 0o777 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let cache = open(home.path());
            assert_eq!(get(&cache, DIGEST), None, "{what:?}");
            assert_eq!(fs::metadata(&path).expect("there").mode() & 0o077, 0);
        }
    }

    #[test]
    fn a_linked_directory_is_refused() {
        let home = tempfile::tempdir().expect("dir");
        let link = home.path().join("link");
        fs::create_dir(home.path().join("real")).expect("made");
        symlink(home.path().join("real"), &link).expect("linked");
        let error = CodeCache::open(&link, 7, CodeCacheLimits::default()).expect_err("refused");
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let home = tempfile::tempdir().expect("dir");
        let limits = CodeCacheLimits {
            entries_max: 2,
            bytes_max: 1 << 20,
        };
        let cache = CodeCache::open(home.path(), 7, limits).expect("opens");
        let age = |digest: &str, seconds: i64| {
            let file = File::open(cache.path(digest)).expect("there");
            let at = Timespec {
                tv_sec: seconds,
                tv_nsec: 0,
            };
            rustix::fs::futimens(
                &file,
                &Timestamps {
                    last_access: at,
                    last_modification: at,
                },
            )
            .expect("set");
        };
        put(&cache, "a", "1");
        put(&cache, "b", "2");
        age("a", 1_000);
        age("b", 2_000);
        assert!(get(&cache, "a").is_some(), "used now: younger than b");
        put(&cache, "c", "3");
        assert!(get(&cache, "b").is_none());
        assert!(get(&cache, "a").is_some() && get(&cache, "c").is_some());
    }

    #[test]
    fn leftovers_of_a_killed_writer_are_removed() {
        let home = tempfile::tempdir().expect("dir");
        drop(open(home.path()));
        let leftover = home.path().join("123-0.tmp");
        fs::write(&leftover, b"half").expect("written");
        drop(open(home.path()));
        assert!(!leftover.exists());
    }
}

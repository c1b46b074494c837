//! What the gateways of this process have compiled, so that each component is compiled once: it costs
//! a start seconds, and most tests are about something else.
//!
//! All their code caches have one key. A gateway takes nothing from here but files, which it checks as
//! it checks its own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use crate::gateway::target_dir;

const KEY_FILE: &str = "key";

/// Gives the gateway that is about to start what is compiled of its components.
pub(crate) fn lend(providers_dir: &Path, data_dir: &Path) {
    let cache = data_dir.join("code-cache");
    private_directory(&cache).expect("the code cache");
    let (shared, own_key) = (shared(), cache.join(KEY_FILE));
    if !own_key.exists() {
        fs::copy(shared.join(KEY_FILE), &own_key).expect("the key of the code cache");
    }
    for component in files_in(providers_dir) {
        let Ok(bytes) = fs::read(&component) else {
            continue;
        };
        let digest: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        for artefact in files_in(shared).filter(|path| name(path).starts_with(&digest)) {
            add(&artefact, &cache);
        }
    }
}

/// Keeps what a gateway with a sound cache has compiled.
pub(crate) fn keep(data_dir: &Path) {
    let cache = data_dir.join("code-cache");
    let key = |directory: &Path| fs::read(directory.join(KEY_FILE)).ok();
    if key(&cache) == key(shared()) {
        for artefact in files_in(&cache).filter(|path| name(path).ends_with(".artefact")) {
            add(&artefact, shared());
        }
    }
}

/// Copies a file that is not there yet, so that nobody sees half of it.
fn add(file: &Path, directory: &Path) {
    let there = directory.join(name(file));
    if there.exists() {
        return;
    }
    let part = tempfile::NamedTempFile::new_in(directory).expect("a file");
    // The gateway may have removed it meanwhile.
    if fs::copy(file, part.path()).is_ok() {
        part.persist(there).expect("the artefact");
    }
}

/// The directory of this process, with the key. Those of processes that ended are removed.
fn shared() -> &'static Path {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| {
        let parent = target_dir().join("tmp/compiled");
        fs::create_dir_all(&parent).expect("a directory");
        for old in files_in(&parent).filter(|old| !Path::new("/proc").join(name(old)).exists()) {
            let _ = fs::remove_dir_all(old);
        }
        let own = parent.join(std::process::id().to_string());
        private_directory(&own).expect("a directory");
        let mut key = fs::OpenOptions::new();
        let key = key.write(true).create(true).truncate(true).mode(0o600);
        let mut file = key.open(own.join(KEY_FILE)).expect("a key");
        io::Write::write_all(&mut file, &rand::random::<[u8; 32]>()).expect("written");
        own
    })
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn files_in(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

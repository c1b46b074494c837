//! Directories and files.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Finding;
use crate::config::Config;
use crate::plugin::engine::check_header;
use crate::plugin::registry::{GRANTS_FILE, parse_grants_file};
use crate::vault::key::{VARIABLE, WhenMissing};
use crate::vault::{KeyError, KeyRing};
use crate::wire;

/// Below this nothing can be accepted before long.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// Below this somebody should look.
const FREE_BYTES_WANTED: u64 = 2 << 30;

pub(super) fn data_dir(config: &Config) -> Result<String, String> {
    private_directory(&config.data_dir)
        .map_err(|problem| format!("{problem}; the first `hookport serve` creates it"))
}

/// Nobody else may read it, and this user may write there.
fn private_directory(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{shown} has mode {mode:03o}: chmod 700 {shown}"));
    }
    rustix::fs::access(
        path,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    )
    .map_err(|error| format!("{shown} cannot be written by this user: {error}"))?;
    Ok(shown.to_string())
}

pub(super) fn disk_space(config: &Config) -> Finding {
    let path = &config.data_dir;
    match rustix::fs::statvfs(path) {
        Ok(found) => space(found.f_bavail.saturating_mul(found.f_frsize)),
        Err(error) => Finding::Fail(format!("{}: {error}", path.display())),
    }
}

fn space(free: u64) -> Finding {
    let said = format!("{} MiB free", free >> 20);
    if free < FREE_BYTES_MIN {
        Finding::Fail(format!(
            "{said}: below {} MiB; a full disk answers every event with 503",
            FREE_BYTES_MIN >> 20
        ))
    } else if free < FREE_BYTES_WANTED {
        Finding::Warn(format!("{said}: make room before it is full"))
    } else {
        Finding::Ok(said)
    }
}

pub(super) fn master_key(config: &Config) -> Result<String, String> {
    let (variables, path) = (wire::key_variables(), wire::key_file(config));
    match KeyRing::load(&variables, &path, WhenMissing::Refuse) {
        Ok(_) if variables.key.is_some() => Ok(format!("from {VARIABLE}")),
        Ok(_) if config.store.url.is_some() => Err(format!(
            "in {}: processes that share a store need the same one, in {VARIABLE}",
            path.display()
        )),
        Ok(_) => Ok(format!(
            "{}; keep a backup apart from the database",
            path.display()
        )),
        Err(error @ KeyError::Missing(_)) => {
            Err(format!("{error}; the first `hookport serve` creates one"))
        }
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn code_cache(config: &Config) -> Finding {
    let path = config.data_dir.join("code-cache");
    if !path.exists() {
        return Finding::Ok("none yet; the first `hookport serve` fills it".to_owned());
    }
    let files = fs::read_dir(&path).map_or(0, Iterator::count);
    private_directory(&path)
        .map(|shown| format!("{files} files in {shown}"))
        .map_err(|problem| format!("{problem}; it may be deleted while no gateway runs"))
        .into()
}

pub(super) fn providers(config: &Config) -> Finding {
    let path = &config.providers_dir;
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return Finding::Fail(format!("{}: {error}", path.display())),
    };
    let (mut count, mut wrong) = (0, Vec::new());
    for entry in entries.filter_map(Result::ok) {
        let file = entry.path();
        if file.extension().is_none_or(|extension| extension != "wasm") {
            continue;
        }
        count += 1;
        let mut head = Vec::new();
        let read = fs::File::open(&file).and_then(|file| file.take(64).read_to_end(&mut head));
        let name = entry.file_name().display().to_string();
        match read {
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(_) => wrong.extend(check_header(&head).err().map(|e| format!("{name}: {e}"))),
        }
    }
    if let Err(problem) = grants(&path.join(GRANTS_FILE)) {
        return Finding::Fail(format!("{GRANTS_FILE}: {problem}"));
    }
    let said = format!("{count} components in {}", path.display());
    match (count, wrong.is_empty()) {
        (0, _) => Finding::Warn(format!("{said}: drop .wasm files there")),
        (_, true) => Finding::Ok(said),
        (_, false) => Finding::Warn(format!("{said}; not usable: {}", wrong.join("; "))),
    }
}

fn grants(path: &Path) -> Result<(), String> {
    match fs::read_to_string(path) {
        Ok(text) => parse_grants_file(&text)
            .map(drop)
            .map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_told_of_before_it_is_full() {
        assert!(matches!(space(10 << 30), Finding::Ok(_)));
        assert!(matches!(space(1 << 30), Finding::Warn(_)));
        assert!(matches!(space(1 << 20), Finding::Fail(_)));
    }

    #[test]
    fn a_directory_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode));
        mode(0o755).expect("set");
        let problem = private_directory(dir.path()).expect_err("refused");
        assert!(problem.contains("chmod 700"), "{problem}");
        mode(0o700).expect("set");
        private_directory(dir.path()).expect("private");
    }

    #[test]
    fn components_and_grants_that_are_none_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config {
            providers_dir: dir.path().to_owned(),
            ..Config::default()
        };
        assert!(matches!(providers(&config), Finding::Warn(_)), "none");
        fs::write(dir.path().join("broken.wasm"), b"MZ").expect("written");
        let found = providers(&config);
        assert!(found.detail().contains("broken.wasm"), "{found:?}");
        fs::write(dir.path().join(GRANTS_FILE), "[webhook").expect("written");
        let found = providers(&config);
        assert!(matches!(found, Finding::Fail(_)), "{found:?}");
    }
}

//! The servers that tests start: checked before the tests, installed where that is allowed.

use std::process::Command;

use anyhow::bail;

use crate::process;

/// Makes sure that PostgreSQL's programs are there.
pub fn ensure() -> anyhow::Result<()> {
    if has_postgres() {
        return Ok(());
    }
    let remedy = "PostgreSQL is missing, which tests start privately: install it (Debian and Ubuntu: `apt-get install postgresql`)";
    let is_root = process::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !is_root || !process::succeeds(Command::new("apt-get").arg("--version")) {
        bail!("{remedy}");
    }
    println!("PostgreSQL is missing: installing it");
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        process::run(&mut apt)
    };
    let installed = apt(&["update"])
        .and_then(|()| apt(&["install", "--yes", "--no-install-recommends", "postgresql"]));
    match installed {
        _ if has_postgres() => Ok(()),
        Ok(()) => bail!("{remedy}"),
        Err(error) => Err(error.context(remedy)),
    }
}

fn has_postgres() -> bool {
    let of_debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .any(|version| version.path().join("bin/initdb").exists());
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join("initdb").exists())
    };
    of_debian || on_path()
}

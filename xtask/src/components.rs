//! Building components for `wasm32-wasip2`, and the grants of the bundled ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::workspace::{ComponentPackage, Workspace};
use crate::{gateway, process};

const TARGET: &str = "wasm32-wasip2";

/// A component is loaded for every call's instance: small and fast matters, build time does not.
const PROFILE: [&str; 4] = [
    "profile.release.lto=\"fat\"",
    "profile.release.codegen-units=1",
    "profile.release.strip=true",
    "profile.release.panic=\"abort\"",
];

/// Builds every package in `providers/` into `target/components` and writes the grants that the
/// bundled ones need.
pub fn build_providers(workspace: &Workspace) -> anyhow::Result<()> {
    let packages = workspace.components_in("providers");
    if packages.is_empty() {
        bail!("providers/ holds no package with a cdylib target");
    }
    let out = workspace.target.join("components");
    build(workspace, &packages, &out)?;
    write_grants(&packages, &out.join("grants.toml"))
}

/// Builds every package in `tests/guests/` into `target/test-components`.
pub fn build_test_guests(workspace: &Workspace) -> anyhow::Result<()> {
    let packages = workspace.components_in("tests/guests");
    build(
        workspace,
        &packages,
        &workspace.target.join("test-components"),
    )
}

fn build(workspace: &Workspace, packages: &[&ComponentPackage], out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    if packages.is_empty() {
        return Ok(());
    }
    ensure_target()?;
    let mut cargo = process::cargo();
    cargo
        .current_dir(&workspace.root)
        .args(["build", "--locked", "--release", "--target", TARGET]);
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    for package in packages {
        cargo.args(["--package", &package.package]);
    }
    process::run(&mut cargo)?;

    if packages.iter().any(|package| package.preinitialize) {
        gateway::build(workspace)?;
    }
    let built = workspace.target.join(TARGET).join("release");
    for package in packages {
        let file = out.join(format!("{}.wasm", package.name));
        let bytes = if package.preinitialize {
            place(
                &preinitialize(workspace, &built.join(&package.artifact))?,
                &file,
            )?
        } else {
            place(&built.join(&package.artifact), &file)?
        };
        println!("  {} ({} KiB)", file.display(), bytes.div_ceil(1024));
    }
    Ok(())
}

/// Runs the component's initialisation; the result is a file beside it.
fn preinitialize(workspace: &Workspace, built: &Path) -> anyhow::Result<PathBuf> {
    let ready = built.with_extension("ready.wasm");
    let fresh = |file: &Path| fs::metadata(file).and_then(|file| file.modified());
    // Done anew only for a new build: it takes as long as compiling the component.
    if fresh(&ready).is_ok_and(|ready| fresh(built).is_ok_and(|built| built < ready)) {
        return Ok(ready);
    }
    let mut hookport = Command::new(workspace.target.join("debug/hookport"));
    hookport
        .args(["provider", "preinitialize"])
        .arg(built)
        .arg("--output")
        .arg(&ready);
    process::run(&mut hookport)?;
    Ok(ready)
}

/// Copies atomically, and only what changed: a running gateway watches the folder.
fn place(from: &Path, to: &Path) -> anyhow::Result<usize> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(bytes.len());
    }
    let part = to.with_extension("wasm.part");
    fs::write(&part, &bytes).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(bytes.len())
}

/// Makes sure that Rust can build for the target, adding it when rustup is there.
fn ensure_target() -> anyhow::Result<()> {
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let installed = || {
        Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(TARGET)
            .join("lib")
            .is_dir()
    };
    if installed() {
        return Ok(());
    }
    println!("the Rust target {TARGET} is missing: adding it");
    let added = process::run(Command::new("rustup").args(["target", "add", TARGET]));
    if installed() {
        return Ok(());
    }
    let remedy = format!(
        "Rust has no standard library for {TARGET}. With rustup: `rustup target add {TARGET}`. \
         Without it: install your system's package for that target (Debian: \
         libstd-rust-dev-wasm32), or take Rust from https://rustup.rs"
    );
    match added {
        Ok(()) => bail!(remedy),
        Err(error) => Err(error.context(remedy)),
    }
}

/// Adds each provider's `grant.toml` to the grants file unless the file names that provider
/// already: what an admin wrote there is never touched.
fn write_grants(packages: &[&ComponentPackage], file: &Path) -> anyhow::Result<()> {
    let mut text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "# What each provider may do. Yours to edit: builds only add tables that are missing.\n"
                .to_owned()
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let before = text.clone();
    for package in packages {
        let source = package.folder.join("grant.toml");
        if !source.exists() || has_table(&text, &package.name) {
            continue;
        }
        let table = fs::read_to_string(&source)
            .with_context(|| format!("cannot read {}", source.display()))?;
        if !has_table(&table, &package.name) {
            bail!(
                "{}: expected the table [{}]",
                source.display(),
                package.name
            );
        }
        text.push('\n');
        text.push_str(&table);
    }
    if text != before {
        fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("  {}", file.display());
    }
    Ok(())
}

fn has_table(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        line.trim()
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
            .is_some_and(|found| found.trim().trim_matches('"') == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_however_they_are_written() {
        let check = |text: &str, expected: bool| {
            assert_eq!(has_table(text, "webhook"), expected, "{text:?}");
        };
        check("[webhook]\nhosts = []\n", true);
        check("a = 1\n  [ webhook ] # mine\n", true);
        check("[\"webhook\"]\n", true);
        check("# [webhook]\n", false);
        check("[webhooks]\n", false);
        check("", false);
    }

    #[test]
    fn an_admins_grants_are_kept_and_missing_ones_added() {
        let folder = std::env::temp_dir().join(format!("xtask-grants-{}", std::process::id()));
        let provider = |name: &str| {
            let package = ComponentPackage {
                package: format!("hookport-provider-{name}"),
                name: name.into(),
                folder: folder.join(name),
                artifact: format!("{name}.wasm"),
                preinitialize: false,
            };
            fs::create_dir_all(&package.folder).expect("folder");
            fs::write(
                package.folder.join("grant.toml"),
                format!("[{name}]\nhosts = [\"bundled\"]\n"),
            )
            .expect("grant");
            package
        };
        let (webhook, slack) = (provider("webhook"), provider("slack"));
        let file = folder.join("grants.toml");
        let edited = "[webhook]\nhosts = [\"edited\"]\n";
        fs::write(&file, edited).expect("file");

        write_grants(&[&webhook, &slack], &file).expect("written");
        write_grants(&[&webhook, &slack], &file).expect("written again");

        let text = fs::read_to_string(&file).expect("file");
        assert_eq!(text, format!("{edited}\n[slack]\nhosts = [\"bundled\"]\n"));
        fs::remove_dir_all(&folder).expect("removed");
    }
}

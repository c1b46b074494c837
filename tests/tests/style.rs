//! What clippy cannot check of the project's style.

use std::fs;
use std::path::{Path, PathBuf};

/// More than this wants to be two modules. Suites of cases may be longer: a case more is not
/// a thought more.
const FILE_LINES_MAX: usize = 700;
const BANNED_NAMES: [&str; 4] = ["utils", "helper", "manager", "common"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

/// Every file with that ending, below the root or a folder that is not built or ignored.
fn files(ending: &str) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            if path.is_dir() {
                if !matches!(name, "target" | "data" | "node_modules" | ".git") {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                let text = fs::read_to_string(&path).expect("text");
                let name = path.strip_prefix(&root).expect("below the root");
                found.push((name.display().to_string(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} below {}", root.display());
    found
}

#[track_caller]
fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn modules_say_what_they_are_for() {
    let silent = files(".rs")
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(name, _)| name)
        .collect();
    none("these files do not open with //!", silent);
}

#[test]
fn files_stay_readable_in_one_sitting() {
    let is_suite = |name: &str| name.contains("tests/") || name.contains("conformance");
    let long = files(".rs")
        .into_iter()
        .filter(|(name, text)| !is_suite(name) && text.lines().count() > FILE_LINES_MAX)
        .map(|(name, text)| format!("{name}: {} lines", text.lines().count()))
        .collect();
    none("these files are too long", long);
}

#[test]
fn names_say_something() {
    let vague = files(".rs")
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            name.trim_end_matches(".rs")
                .split(['/', '_'])
                .any(|part| BANNED_NAMES.contains(&part))
        })
        .collect();
    none("these names say nothing", vague);
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    // Of generated code nobody knows which lints it trips.
    let exempt = ["tests/tests/style.rs", "sdk/src/bindings.rs"];
    let mut found = Vec::new();
    for (name, text) in files(".rs") {
        if exempt.contains(&name.as_str()) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with("#[allow(") || line.starts_with("#![allow(") {
                found.push(format!("{name}:{}: {line}", index + 1));
            }
        }
    }
    none("write #[expect(…, reason = …)]", found);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for (name, text) in files(".md") {
        let folder = root().join(&name);
        let folder = folder.parent().expect("a folder");
        let targets = text.split("](").skip(1).filter_map(|rest| {
            let target = rest.split([')', ' ']).next()?;
            target.split('#').next()
        });
        for target in targets {
            let elsewhere = target.is_empty() || target.contains("://") || target.contains('{');
            if !elsewhere && !folder.join(target).exists() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    none("these links lead nowhere", broken);
}

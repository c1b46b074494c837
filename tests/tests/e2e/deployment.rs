//! What is shipped for running a gateway: files that parse, and name flags, variables and paths that
//! exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hookport_tests::gateway::binary;
use yaml_rust2::{Yaml, YamlLoader};

/// Read from the environment by name, beside what `--help` lists.
const VARIABLES: [&str; 4] = [
    "HOOKPORT_LOG",
    "HOOKPORT_MASTER_KEY",
    "HOOKPORT_QUEUE_URL",
    "HOOKPORT_REDIS_URL",
];

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(deploy(path)).expect(path)
}

fn yaml(path: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&text(path)).expect(path);
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

fn help(subcommand: &str) -> String {
    let output = Command::new(binary())
        .args([subcommand, "--help"])
        .env_clear()
        .output()
        .expect("it runs");
    String::from_utf8(output.stdout).expect("text")
}

/// Words that begin like this.
fn words<'a>(text: &'a str, start: &str) -> BTreeSet<&'a str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-')
        .filter(|word| word.starts_with(start) && word.len() > start.len())
        .collect()
}

#[test]
fn variables_of_the_shipped_files_are_read_by_the_binary() {
    let help = help("serve");
    let read: BTreeSet<&str> = words(&help, "HOOKPORT_")
        .into_iter()
        .chain(VARIABLES)
        .collect();
    for file in [
        "compose.yaml",
        "Dockerfile",
        "env.example",
        "hookport.service",
    ] {
        let text = text(file);
        let named = words(&text, "HOOKPORT_");
        assert!(!named.is_empty(), "{file}");
        let unknown: Vec<_> = named.difference(&read).collect();
        assert!(unknown.is_empty(), "{file}: nothing reads {unknown:?}");
    }
}

#[test]
fn the_unit_starts_what_the_binary_understands() {
    let unit = text("hookport.service");
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .expect("ExecStart");
    let mut arguments = start.split_whitespace().skip(1);
    assert_eq!(arguments.next(), Some("serve"));
    let help = help("serve");
    let known = words(&help, "--");
    for flag in arguments.filter(|argument| argument.starts_with("--")) {
        assert!(known.contains(flag), "{flag} is not among {known:?}");
    }
    // Where systemd is, it knows the unit's settings better than any list.
    if Path::new("/usr/bin/systemd-analyze").exists() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("hookport.service");
        let installed = unit.replace("/usr/local/bin/hookport", &binary().display().to_string());
        fs::write(&path, installed).expect("written");
        let output = Command::new("systemd-analyze")
            .arg("verify")
            .arg(&path)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let about: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("hookport.service"))
            .collect();
        assert!(about.is_empty(), "{said}");
    }
}

#[test]
fn the_compose_file_has_two_gateways_and_the_files_that_it_mounts() {
    let compose = yaml("compose.yaml");
    let services = &compose["services"];
    let names: Vec<&str> = services
        .as_hash()
        .expect("services")
        .keys()
        .filter_map(Yaml::as_str)
        .collect();
    for name in ["gateway-1", "gateway-2", "postgres", "rabbitmq", "redis"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let volumes = compose["volumes"].as_hash().expect("volumes");
    for name in names {
        for volume in services[name]["volumes"].as_vec().into_iter().flatten() {
            let volume = volume.as_str().expect("a volume in short");
            let from = volume.split(':').next().unwrap_or("");
            let exists = match from.strip_prefix("./") {
                // Made by whoever runs it, and ignored by version control.
                Some("prometheus/hookport.key") => true,
                Some(path) => deploy(path).exists(),
                None => volumes.contains_key(&Yaml::String(from.to_owned())),
            };
            assert!(exists, "{name} mounts {volume}");
        }
        let depends = services[name]["depends_on"].as_hash();
        for on in depends.into_iter().flat_map(|hash| hash.keys()) {
            assert!(!services[on.as_str().expect("a name")].is_badvalue());
        }
    }
    for file in [
        "prometheus/alerts.yml",
        "prometheus/prometheus.yml",
        "grafana/provisioning/datasources/prometheus.yaml",
        "grafana/provisioning/dashboards/hookport.yaml",
    ] {
        assert!(yaml(file).as_hash().is_some(), "{file}");
    }
    let rules = &yaml("prometheus/alerts.yml")["groups"][0]["rules"];
    for rule in rules.as_vec().expect("rules") {
        let name = rule["alert"].as_str().expect("a name");
        let said = rule["annotations"]["summary"].as_str();
        assert!(said.is_some() && rule["expr"].as_str().is_some(), "{name}");
        assert!(rule["labels"]["severity"].as_str().is_some(), "{name}");
    }
}

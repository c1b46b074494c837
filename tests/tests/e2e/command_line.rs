//! The binary's subcommands.

use std::process::Output;

use hookport_tests::gateway::{Gateway, component};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_created_listed_and_revoked_beside_a_stopped_gateway() {
    let mut gateway = Gateway::start().await;
    gateway.terminate().await;
    let run = |arguments: &[&str]| gateway.command(arguments).output().expect("it runs");
    let created = succeeded(&run(&[
        "key", "create", "--name", "ci", "--role", "emitter",
    ]));
    let key = created
        .split_whitespace()
        .find(|word| word.starts_with("hp_"))
        .expect("the key")
        .to_owned();
    let listed = succeeded(&run(&["key", "list"]));
    assert!(
        listed.contains("ci") && listed.contains("emitter"),
        "{listed}"
    );
    assert!(!listed.contains(&key), "{listed}");
    let id = listed
        .lines()
        .find(|line| line.contains("ci"))
        .and_then(|line| line.split_whitespace().next())
        .expect("its id")
        .to_owned();
    gateway.restart().await;
    gateway.api().register("incident.created").await;
    let api = gateway.api().with_key(&key);
    let event = serde_json::json!({"type": "incident.created", "payload": {}});
    api.emit(&event).await;
    gateway.terminate().await;
    let run = |arguments: &[&str]| gateway.command(arguments).output().expect("it runs");
    succeeded(&run(&["key", "revoke", &id]));
    let again = run(&["key", "revoke", &id]);
    assert!(!again.status.success(), "{}", text(&again.stdout));
    gateway.restart().await;
    let answer = gateway.api().with_key(&key).post("/events", &event).await;
    answer.expect_problem(401, "unauthorized");
}

#[test]
fn a_component_can_be_inspected_without_a_gateway() {
    let inspect = |path: &std::path::Path| {
        std::process::Command::new(hookport_tests::gateway::binary())
            .args(["provider", "inspect"])
            .arg(path)
            .env_clear()
            .output()
            .expect("it runs")
    };
    let shown = succeeded(&inspect(&component("webhook")));
    for expected in ["webhook", "Webhook", "{config.url}"] {
        assert!(shown.contains(expected), "{expected} is missing: {shown}");
    }
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("broken.wasm");
    std::fs::write(&file, b"\0asm broken").expect("written");
    let refused = inspect(&file);
    assert!(!refused.status.success());
    assert!(!text(&refused.stderr).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_a_healthy_gateway_healthy_and_a_broken_one_not() {
    let mut gateway = Gateway::start().await;
    gateway.terminate().await;
    let doctor = |gateway: &Gateway| {
        gateway
            .command(&["doctor"])
            .arg("--providers")
            .arg(gateway.providers_dir())
            .output()
            .expect("it runs")
    };
    succeeded(&doctor(&gateway));
    // A vault key that is not the one that the data was sealed with, or no key at all.
    std::fs::write(gateway.data_dir().join("vault.key"), b"not a key").expect("written");
    let found = doctor(&gateway);
    assert!(!found.status.success(), "{}", text(&found.stdout));
    let said = text(&found.stdout) + &text(&found.stderr);
    assert!(said.contains("vault.key"), "{said}");
}

#[test]
fn help_and_mistakes_are_answered() {
    let run = |arguments: &[&str]| {
        std::process::Command::new(hookport_tests::gateway::binary())
            .args(arguments)
            .env_clear()
            .output()
            .expect("it runs")
    };
    let help = succeeded(&run(&["--help"]));
    for command in ["serve", "key", "provider", "doctor", "bench"] {
        assert!(help.contains(command), "{command} is missing: {help}");
    }
    assert!(!run(&["srve"]).status.success());
    let missing = run(&["serve", "--config", "/nonexistent/hookport.toml"]);
    assert!(!missing.status.success());
    assert!(text(&missing.stderr).contains("/nonexistent/hookport.toml"));
}

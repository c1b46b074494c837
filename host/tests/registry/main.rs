//! The providers directory, from outside: real components, the real compile child, real files.

mod harness;

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hookport::domain::provider::ComponentState;
use hookport::plugin::compile_child::CompileLimits;
use hookport::plugin::registry::RegistryEvent;
use hookport::plugin::{GrantError, Providers};

use harness::{Bench, GatedServer, Shape, component, grant, provider, somebody};

#[tokio::test(flavor = "multi_thread")]
async fn dropping_replacing_and_deleting_take_effect_without_a_restart() {
    let bench = Bench::start().await;
    assert_eq!(bench.registry.reports(), []);

    bench.write("shape.wasm", &Shape::new("shape", "1.0.0").wasm());
    bench.serves("shape", "1.0.0").await;
    assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));

    bench.write("shape.wasm", &Shape::new("shape", "1.1.0").wasm());
    bench.serves("shape", "1.1.0").await;
    assert_eq!(bench.deliver("shape", None).await, Ok("1.1.0".to_owned()));

    bench.remove("shape.wasm");
    bench.until("it is gone", |r| r.reports().is_empty()).await;
    let failure = bench.deliver("shape", None).await.expect_err("gone");
    assert!(
        failure.contains("no provider shape is installed"),
        "{failure}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_on_the_version_it_began_with() {
    let server = GatedServer::start().await;
    let bench = Bench::start().await;
    bench.write(
        "grants.toml",
        b"[shape]\nhosts = [\"{config.url}\"]\nallow_addresses = [\"127.0.0.0/8\"]\n",
    );
    let shape = |version| Shape::new("shape", version).hosts(&["{config.url}"]).wasm();
    bench.write("shape.wasm", &shape("1.0.0"));
    bench.serves("shape", "1.0.0").await;

    let first = bench.deliver_in_background("shape", &server.url());
    server.entered().await;
    bench.write("shape.wasm", &shape("2.0.0"));
    bench.serves("shape", "2.0.0").await;
    let second = bench.deliver_in_background("shape", &server.url());
    server.entered().await;
    bench.remove("shape.wasm");
    bench.until("it is gone", |r| r.reports().is_empty()).await;

    server.open();
    assert_eq!(first.await.expect("joined"), Ok("1.0.0 204".to_owned()));
    assert_eq!(second.await.expect("joined"), Ok("2.0.0 204".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_versions_are_swapped() {
    let bench = Bench::start().await;
    let versions = ["1.0.0", "2.0.0"];
    let components = versions.map(|version| Shape::new("shape", version).wasm());
    bench.write("shape.wasm", &components[0]);
    bench.serves("shape", versions[0]).await;
    let stop = Arc::new(AtomicBool::new(false));
    // More callers than the sandbox has places: they wait for each other.
    let callers: Vec<_> = (0..24)
        .map(|_| {
            let stop = stop.clone();
            let caller = bench.caller("shape");
            tokio::spawn(async move {
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answer = caller.deliver().await;
                    assert!(
                        matches!(&answer, Ok(v) if versions.contains(&v.as_str())),
                        "{answer:?}"
                    );
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    for swap in 1..=8 {
        bench.write("shape.wasm", &components[swap % 2]);
        bench.serves("shape", versions[swap % 2]).await;
        // Published means published: a call that begins now is the new version's.
        assert_eq!(
            bench.deliver("shape", None).await,
            Ok(versions[swap % 2].to_owned())
        );
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.expect("no call failed") > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_and_foreign_files_are_reported_and_change_nothing() {
    let bench = Bench::start().await;
    let sound = Shape::new("good", "1.0.0").wasm();
    bench.write("good.wasm", &sound);
    bench.serves("good", "1.0.0").await;

    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    let artefact = hookport::plugin::engine::compile(&component("")).expect("compiles");
    let describes = |shape: Shape| shape.wasm();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "truncated"),
        ("short", sound[..4].to_vec(), "truncated"),
        (
            "truncated",
            sound[..sound.len() - 100].to_vec(),
            "truncated",
        ),
        ("half", sound[..sound.len() / 2].to_vec(), "truncated"),
        ("damaged", damaged, ""),
        (
            "text",
            b"#!/bin/sh\necho hello\n".to_vec(),
            "not a WebAssembly component",
        ),
        (
            "core",
            wat::parse_str("(module)").expect("module"),
            "core WebAssembly module",
        ),
        ("precompiled", artefact, "precompiled"),
        ("bare", component(""), "does not fit the world"),
        (
            "imports",
            component(r#"(import "hookport:provider/files@0.1.0" (instance))"#),
            "imports hookport:provider/files@0.1.0, which is not served",
        ),
        (
            "newer",
            component(r#"(import "hookport:provider/http@0.2.0" (instance))"#),
            "hookport:provider@0.1.0",
        ),
        (
            "spin",
            describes(Shape::new("spin", "1.0.0").spin()),
            "CPU budget",
        ),
        (
            "id",
            describes(Shape::new("No_Id", "1.0.0")),
            "describe: id",
        ),
        (
            "version",
            describes(Shape::new("v", "one")),
            "describe: version",
        ),
        (
            "host",
            describes(Shape::new("h", "1.0.0").hosts(&["ftp://a"])),
            "permissions.hosts",
        ),
        (
            "schema",
            describes(Shape::new("s", "1.0.0").schema(serde_json::json!({"type": "objet"}))),
            "config.schema",
        ),
        (
            "array",
            describes(Shape::new("a", "1.0.0").schema(serde_json::json!([]))),
            "config.schema: must be a JSON object",
        ),
        (
            "manifest",
            Shape::new("m", "1.0.0").manifest("other", "1.0.0", "hookport:provider@0.1.0"),
            "hookport-manifest says id",
        ),
        (
            "contract",
            Shape::new("c", "1.0.0").manifest("c", "1.0.0", "hookport:provider@0.7.0"),
            "built for hookport:provider@0.7.0, which is not served",
        ),
    ];
    for (name, bytes, _) in &cases {
        bench.write(&format!("{name}.wasm"), bytes);
    }
    for (name, _, words) in &cases {
        let reason = bench.rejection(&format!("{name}.wasm")).await;
        assert!(reason.contains(words), "{name}: {reason}");
    }
    assert_eq!(bench.deliver("good", None).await, Ok("1.0.0".to_owned()));
    assert_eq!(bench.registry.reports().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symbolic_link_is_reported_and_not_followed() {
    let bench = Bench::start().await;
    let elsewhere = bench.home.path().join("elsewhere.wasm");
    std::fs::write(&elsewhere, Shape::new("shape", "1.0.0").wasm()).expect("written");
    symlink(&elsewhere, bench.providers().join("shape.wasm")).expect("linked");
    let reason = bench.rejection("shape.wasm").await;
    assert!(reason.contains("symbolic link"), "{reason}");
    assert!(bench.registry.reports().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_replacement_leaves_the_version_before_serving() {
    let bench = Bench::start().await;
    let mut events = bench.registry.subscribe();
    bench.write("shape.wasm", &Shape::new("shape", "1.0.0").wasm());
    bench.serves("shape", "1.0.0").await;
    for broken in [b"junk".to_vec(), Shape::new("shape", "2.0.0").spin().wasm()] {
        bench.write("shape.wasm", &broken);
        let report = bench
            .until_some("the candidate is refused", |registry| {
                let report = registry.reports().pop()?;
                let state = report.candidate.as_ref()?.state.clone();
                matches!(state, ComponentState::Rejected(_)).then_some(report)
            })
            .await;
        let serving = report.serving.expect("serves on");
        assert_eq!(serving.descriptor.expect("known").version, "1.0.0");
        assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));
        assert!(
            bench.registry.rejected_files().is_empty(),
            "it is a provider's"
        );
    }
    let failed = loop {
        if let RegistryEvent::Failed { provider, report } = events.recv().await.expect("event") {
            break (provider, report.file);
        }
    };
    assert_eq!(failed, (Some(provider("shape")), "shape.wasm".to_owned()));
    bench.write("shape.wasm", &Shape::new("shape", "3.0.0").wasm());
    bench.serves("shape", "3.0.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_file_cannot_take_anothers_id() {
    let bench = Bench::start().await;
    bench.write("mine.wasm", &Shape::new("shape", "1.0.0").wasm());
    bench.serves("shape", "1.0.0").await;
    // Named after the id, and newer: neither helps.
    bench.write("shape.wasm", &Shape::new("shape", "9.0.0").wasm());
    let reason = bench.rejection("shape.wasm").await;
    assert!(
        reason.contains("\"shape\"") && reason.contains("mine.wasm"),
        "{reason}"
    );
    assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));

    // Nor can a file that provides something else turn into it.
    bench.write("other.wasm", &Shape::new("other", "1.0.0").wasm());
    bench.serves("other", "1.0.0").await;
    bench.write("other.wasm", &Shape::new("shape", "9.0.0").wasm());
    let reason = bench.candidate_rejection("other").await;
    assert!(reason.contains("\"shape\""), "{reason}");
    assert_eq!(bench.deliver("other", None).await, Ok("1.0.0".to_owned()));

    bench.remove("mine.wasm");
    bench.serves("shape", "9.0.0").await;
    assert_eq!(bench.deliver("shape", None).await, Ok("9.0.0".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_asks_for_more_waits_for_its_grant() {
    let mut bench = Bench::start().await;
    let shape = |version: &str, hosts: &[&str]| Shape::new("shape", version).hosts(hosts).wasm();
    bench.write("shape.wasm", &shape("1.0.0", &["a.test", "b.test"]));
    bench.waits("shape", "1.0.0").await;
    let failure = bench.deliver("shape", None).await.expect_err("not granted");
    assert!(
        failure.contains("waits for a grant of a.test, b.test"),
        "{failure}"
    );

    // Less than asked is an answer, too.
    let report = bench.grant("shape", &["a.test"]).await.expect("granted");
    assert!(
        report.serving.is_some() && report.candidate.is_none(),
        "{report:?}"
    );
    assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));

    // Nothing widened: carried over, and on record for the new digest.
    bench.write("shape.wasm", &shape("1.1.0", &["b.test"]));
    bench.serves("shape", "1.1.0").await;
    let digest = bench.serving_digest("shape").expect("serving");
    bench
        .until("the grant is pinned anew", |_| {
            bench.store.digest_of("shape") == Some(digest.clone())
        })
        .await;

    for wider in [
        shape("2.0.0", &["b.test", "c.test"]),
        shape("2.0.0", &["*"]),
        Shape::new("shape", "2.0.0").expose().wasm(),
    ] {
        bench.write("shape.wasm", &wider);
        bench.waits("shape", "2.0.0").await;
        assert_eq!(bench.deliver("shape", None).await, Ok("1.1.0".to_owned()));
        bench.write("shape.wasm", &shape("1.1.0", &["b.test"]));
        bench
            .until("no candidate", |r| r.reports()[0].candidate.is_none())
            .await;
    }

    bench.write("shape.wasm", &shape("2.0.0", &["c.test"]));
    bench.waits("shape", "2.0.0").await;
    let report = bench.grant("shape", &["c.test"]).await.expect("granted");
    assert!(report.candidate.is_none());
    assert_eq!(bench.deliver("shape", None).await, Ok("2.0.0".to_owned()));

    bench.restart().await;
    assert_eq!(bench.deliver("shape", None).await, Ok("2.0.0".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_refused_for_what_is_wrong_with_it() {
    let bench = Bench::start().await;
    let unknown = bench.grant("shape", &[]).await.expect_err("unknown");
    assert_eq!(unknown, GrantError::UnknownProvider(provider("shape")));
    bench.write(
        "shape.wasm",
        &Shape::new("shape", "1.0.0").hosts(&["*"]).wasm(),
    );
    bench.waits("shape", "1.0.0").await;
    let wrong = bench
        .grant("shape", &["http://a/b"])
        .await
        .expect_err("wrong");
    assert!(
        matches!(&wrong, GrantError::Invalid(text) if text.contains("hosts")),
        "{wrong:?}"
    );
    bench.store.fail(true);
    let lost = bench
        .grant("shape", &["a.test"])
        .await
        .expect_err("store down");
    assert!(matches!(lost, GrantError::Unavailable(_)), "{lost:?}");
    assert!(
        bench.registry.reports()[0].serving.is_none(),
        "not on record, not granted"
    );
    bench.store.fail(false);
    bench.grant("shape", &["a.test"]).await.expect("granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grants_file_is_read_when_it_changes_and_a_wrong_one_changes_nothing() {
    let bench = Bench::start().await;
    bench.write(
        "shape.wasm",
        &Shape::new("shape", "1.0.0").hosts(&["a.test"]).wasm(),
    );
    bench.waits("shape", "1.0.0").await;
    bench.write("grants.toml", b"[shape]\nhosts = [\"a.test\"]\n");
    bench.serves("shape", "1.0.0").await;

    bench.write("grants.toml", b"[shape]\nhosts = \"a.test\"\n");
    let reason = bench.rejection("grants.toml").await;
    assert!(reason.contains("hosts"), "{reason}");
    assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));

    bench.write("grants.toml", b"[other]\nhosts = [\"a.test\"]\n");
    bench.waits("shape", "1.0.0").await;
    assert!(bench.registry.rejected_files().is_empty());
    assert!(
        bench.deliver("shape", None).await.is_err(),
        "the grant was taken back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_takes_for_ever_to_compile_is_given_up() {
    let mut bench = Bench::start().await;
    bench.write("shape.wasm", &Shape::new("shape", "1.0.0").wasm());
    bench.serves("shape", "1.0.0").await;
    bench
        .restart_limited(CompileLimits {
            deadline: Duration::from_secs(1),
            ..CompileLimits::default()
        })
        .await;
    bench.write("slow.wasm", &harness::slow_to_compile());
    let reason = bench.rejection("slow.wasm").await;
    assert!(reason.contains("took longer than 1000 ms"), "{reason}");
    assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_needs_too_much_memory_to_compile_is_given_up() {
    let mut bench = Bench::start().await;
    bench
        .restart_limited(CompileLimits {
            memory_bytes_max: 384 << 20,
            ..CompileLimits::default()
        })
        .await;
    bench.write("fat.wasm", &harness::slow_to_compile());
    let reason = bench.rejection("fat.wasm").await;
    assert!(reason.contains("bytes of memory"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_start_needs_no_compiler_and_a_tampered_cache_is_not_run() {
    let mut bench = Bench::start().await;
    bench.write("shape.wasm", &Shape::new("shape", "1.0.0").wasm());
    bench.serves("shape", "1.0.0").await;

    bench.restart_without_compiler().await;
    assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));

    for path in bench.cached_artefacts() {
        let mut bytes = std::fs::read(&path).expect("there");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("written");
    }
    bench.restart_without_compiler().await;
    assert!(
        bench.deliver("shape", None).await.is_err(),
        "tampered code must not run"
    );
    assert!(bench.cached_artefacts().is_empty(), "and it is removed");
    bench.restart().await;
    assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_still_being_written_is_left_alone() {
    use std::io::Write;
    // Long enough that the writer is not taken for done where it only waits for a processor.
    let bench = Bench::start_settling(Duration::from_secs(2)).await;
    let mut events = bench.registry.subscribe();
    let bytes = Shape::new("shape", "1.0.0").wasm();
    let mut file = std::fs::File::create(bench.providers().join("shape.wasm")).expect("created");
    for part in bytes.chunks(bytes.len() / 10) {
        file.write_all(part).expect("written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(file);
    bench.serves("shape", "1.0.0").await;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, RegistryEvent::Failed { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_two_files_claim_an_id_at_the_start_the_granted_one_has_it() {
    let mut bench = Bench::start().await;
    let mine = Shape::new("shape", "1.0.0").hosts(&["a.test"]).wasm();
    bench.write("z.wasm", &mine);
    bench.waits("shape", "1.0.0").await;
    bench.grant("shape", &["a.test"]).await.expect("granted");
    bench
        .write_while_stopped(|bench| {
            bench.write("a.wasm", &Shape::new("shape", "9.0.0").wasm());
            bench.write("shape.wasm", &Shape::new("shape", "9.0.0").wasm());
        })
        .await;
    assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));
    for intruder in ["a.wasm", "shape.wasm"] {
        assert!(bench.rejection(intruder).await.contains("z.wasm"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_knows_all_that_was_put_there_just_before_and_what_failed() {
    let mut bench = Bench::start().await;
    bench
        .write_while_stopped(|bench| {
            bench.write("shape.wasm", &Shape::new("shape", "1.0.0").wasm());
            bench.write("broken.wasm", b"junk");
        })
        .await;
    // No waiting: whoever is told that the gateway is ready may call.
    assert_eq!(bench.deliver("shape", None).await, Ok("1.0.0".to_owned()));
    let mut events = bench.registry.subscribe();
    let failed = loop {
        if let RegistryEvent::Failed { report, .. } = events.recv().await.expect("event") {
            break report.file;
        }
    };
    assert_eq!(failed, "broken.wasm");
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_addresses_apply_at_once() {
    let server = GatedServer::start().await;
    server.open();
    let bench = Bench::start().await;
    bench.write(
        "shape.wasm",
        &Shape::new("shape", "1.0.0").hosts(&["{config.url}"]).wasm(),
    );
    bench.waits("shape", "1.0.0").await;
    let id = provider("shape");
    let closed = grant(&["{config.url}"], &[]);
    bench
        .registry
        .grant(&id, closed, somebody())
        .await
        .expect("granted");
    let failure = bench
        .deliver("shape", Some(&server.url()))
        .await
        .expect_err("denied");
    assert!(failure.contains("loopback"), "{failure}");
    let open = grant(&["{config.url}"], &["127.0.0.0/8"]);
    bench
        .registry
        .grant(&id, open, somebody())
        .await
        .expect("granted");
    let answer = bench.deliver("shape", Some(&server.url())).await;
    assert_eq!(answer, Ok("1.0.0 204".to_owned()));
}

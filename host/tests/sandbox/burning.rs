//! CPU time, memory, stack, traps.

use std::sync::Arc;
use std::time::Duration;

use hookport::plugin::artefact::TrustedArtefact;
use hookport::plugin::component::describe;
use hookport::plugin::engine::compile;
use hookport::plugin::{CallFailure, DocumentKind, OptionsCall};
use serde_json::json;

use crate::harness::{
    HANG, deliver, document, limit, limits, load, load_into, own_url, sandbox, summary, trap, wasm,
};

#[tokio::test]
async fn spinning_for_ever_ends_at_the_cpu_limit() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "spin"})).await;
    assert_eq!(limit(&report), "the CPU budget of 400 ms is spent");
}

#[tokio::test]
async fn copying_memory_for_ever_ends_at_the_cpu_limit() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "copy"})).await;
    assert_eq!(limit(&report), "the CPU budget of 400 ms is spent");
}

#[tokio::test]
async fn allocating_without_end_ends_at_the_memory_limit() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "allocate"})).await;
    assert_eq!(
        limit(&report),
        "the guest asked for more than 33554432 bytes of memory"
    );
    let report = deliver(&guest, json!({"mode": "calm"})).await;
    assert_eq!(summary(&report), "calm");
}

#[tokio::test]
async fn recursing_without_end_overflows_the_guests_own_stack() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "recurse"})).await;
    assert_eq!(limit(&report), "the guest's stack overflowed");
}

#[tokio::test]
async fn a_trap_in_deliver_is_a_trap() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "trap"})).await;
    assert!(trap(&report).contains("unreachable"), "{report:?}");
    let told = report
        .logs
        .iter()
        .any(|line| line.level == "stderr" && line.message.contains("trapped on purpose"));
    assert!(told, "the author sees the panic: {:?}", report.logs);
}

#[tokio::test]
async fn a_trap_in_test_connection_is_a_trap() {
    let guest = load(own_url(), limits()).await;
    let report = guest
        .test_connection(document(json!({"mode": "trap"})))
        .await;
    assert!(trap(&report).contains("unreachable"), "{report:?}");
}

#[tokio::test]
async fn a_trap_in_get_connection_options_is_a_trap() {
    let guest = load(own_url(), limits()).await;
    let report = guest
        .options(OptionsCall {
            resolver: "any".into(),
            connection: None,
            context: json!({"mode": "trap"}),
            search: None,
            cache_scope: "test".into(),
        })
        .await;
    assert!(trap(&report).contains("unreachable"), "{report:?}");
}

#[tokio::test]
async fn a_trap_in_migrate_config_is_a_trap() {
    let guest = load(own_url(), limits()).await;
    let report = guest
        .migrate(DocumentKind::Config, document(json!({"mode": "trap"})))
        .await;
    assert!(trap(&report).contains("unreachable"), "{report:?}");
}

#[tokio::test]
async fn a_trap_in_describe_is_a_trap() {
    let mut wasm = wasm();
    let (from, to) = (b"hookport-hostile-plan:calm", b"hookport-hostile-plan:trap");
    let at = wasm
        .windows(from.len())
        .position(|window| window == from)
        .expect("the plan of describe");
    wasm[at..at + to.len()].copy_from_slice(to);
    let sandbox = sandbox();
    let artefact = TrustedArtefact::vouch(compile(&wasm).expect("compiles"));
    let code = sandbox.load(&artefact).expect("loads");
    let failure = describe(&sandbox, &code).await.expect_err("a trap");
    assert!(
        matches!(&failure, CallFailure::Trap(text) if text.contains("unreachable")),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spinning_calls_do_not_stop_a_well_behaved_one() {
    let sandbox = sandbox();
    let patient = hookport::plugin::limits::Limits {
        cpu_ms_max: 60_000,
        ..limits()
    };
    let spinner = Arc::new(load_into(sandbox.clone(), own_url(), patient).await);
    let calm = load_into(sandbox, own_url(), limits()).await;
    let spinning: Vec<_> = (0..8)
        .map(|_| {
            let spinner = spinner.clone();
            tokio::spawn(async move { deliver(&spinner, json!({"mode": "spin"})).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..20 {
        let report = tokio::time::timeout(
            Duration::from_secs(5),
            deliver(&calm, json!({"mode": "calm"})),
        )
        .await
        .expect("a well-behaved call ends beside spinning ones");
        assert_eq!(summary(&report), "calm");
    }
    let still = spinning.iter().filter(|call| !call.is_finished()).count();
    assert_eq!(still, 8, "they spun all the while");
    for call in spinning {
        let report = tokio::time::timeout(HANG, call)
            .await
            .expect("ends")
            .expect("no panic");
        limit(&report);
    }
}

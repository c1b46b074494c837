//! One call into the sandbox: fresh instance, JSON in and out, no network; beside it the same
//! provider run natively, a filter in jq and a script.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use hookport::domain::clock::Timestamp;
use hookport::domain::event::{Event, EventTypeName};
use hookport::domain::id::IdGenerator;
use hookport::egress::{Egress, EgressConfig};
use hookport::plugin::compile_child::{CompileLimits, Compiler};
use hookport::plugin::component::{self, LoadedComponent};
use hookport::plugin::engine::{Sandbox, SandboxConfig};
use hookport::plugin::limits::Limits;
use hookport::plugin::{DeliverCall, EffectivePermissions, GuestDocument};
use hookport_guest_echo::Echo;
use hookport_sdk::testing::{TestEvent, TestHost};
use serde_json::json;

/// As in the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// No request: what is measured is the engine.
const SCRIPT: &str = r#"
async function deliver(event, ctx) {
  const { id, title } = event.payload.incident;
  return { externalId: `${id}`, summary: `${event.type}: ${title}` };
}
"#;

async fn load(component: &str) -> LoadedComponent {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target")
        .join(component);
    let wasm = std::fs::read(&path).expect("run cargo xtask providers --tests");
    let egress = Arc::new(Egress::new(&EgressConfig::default()).expect("egress"));
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default(), egress).expect("engine"));
    let artefact = Compiler::in_process(CompileLimits::default())
        .compile(wasm.into())
        .await
        .expect("compiles");
    let code = sandbox.load(&artefact).expect("loads");
    let descriptor = component::describe(&sandbox, &code)
        .await
        .expect("describes itself");
    LoadedComponent::new(
        sandbox,
        code,
        &descriptor,
        EffectivePermissions::none(),
        Limits::default().for_kind(descriptor.kind),
    )
}

fn call() -> DeliverCall {
    let ids = IdGenerator::default();
    let now = Timestamp(1_700_000_000_000);
    DeliverCall {
        event: Arc::new(Event {
            id: ids.next(now, || 1),
            event_type: EventTypeName::parse("incident.created").expect("name"),
            payload: json!({"incident": {"id": 7, "title": "Disk full"}})
                .to_string()
                .into(),
            occurred_at: now,
            received_at: now,
            correlation_key: None,
            system_ids: Vec::new(),
            trace: None,
        }),
        delivery_id: ids.next(now, || 1),
        attempt: 1,
        external_id: None,
        subscription_id: ids.next(now, || 1),
        subscription_name: "Bench".into(),
        config: GuestDocument {
            json: json!({"prefix": "> "}).to_string().into(),
            version: 1,
            ..GuestDocument::default()
        },
        connection: None,
        cache_scope: "bench".into(),
        timeout: Some(Duration::from_secs(5)),
        preview: None,
    }
}

fn sandbox(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime");
    let component = runtime.block_on(load("test-components/echo.wasm"));
    let call = call();
    let mut group = criterion.benchmark_group("one call");
    group.bench_function("sandboxed", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let report = component.deliver(call.clone()).await;
            assert!(report.result.is_ok(), "{:?}", report.result);
        });
    });
    let jq = runtime.block_on(load("components/jq.wasm"));
    let program: Arc<str> = ".payload.incident.severity == \"critical\" and .payload.n > 3".into();
    let input: Arc<str> = json!({"payload": {"incident": {"severity": "critical"}, "n": 4}})
        .to_string()
        .into();
    group.bench_function("filter in jq", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let report = jq.run_program(program.clone(), input.clone(), 2).await;
            assert_eq!(report.result, Ok(vec!["true".to_owned()]));
        });
    });
    let script = runtime.block_on(load("components/script.wasm"));
    let mut scripted = call.clone();
    scripted.config.json = json!({"code": SCRIPT}).to_string().into();
    group.bench_function("script", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let report = script.deliver(scripted.clone()).await;
            assert!(report.result.is_ok(), "{:?}", report.result);
        });
    });
    let host = TestHost::new();
    let config = json!({"prefix": "> "});
    let event = TestEvent::new("incident.created");
    group.bench_function("native", |bencher| {
        bencher.iter(|| {
            host.deliver::<Echo>(&config, None, &event)
                .expect("delivered")
        });
    });
    group.finish();
}

criterion_group!(benches, sandbox);
criterion_main!(benches);

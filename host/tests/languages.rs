//! Filters and transforms as the component that is shipped, in the real sandbox.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hookport::domain::provider::ComponentKind;
use hookport::egress::{Egress, EgressConfig};
use hookport::plugin::artefact::TrustedArtefact;
use hookport::plugin::component::{LoadedComponent, describe};
use hookport::plugin::engine::{Sandbox, SandboxConfig, compile};
use hookport::plugin::limits::Limits;
use hookport::plugin::{CallFailure, EffectivePermissions, GuestDocument};

async fn jq() -> LoadedComponent {
    let folder = std::env::var_os("HOOKPORT_COMPONENTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/components"),
        PathBuf::from,
    );
    let file = folder.join("jq.wasm");
    let wasm = std::fs::read(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; run cargo xtask providers", file.display()));
    let egress = Arc::new(Egress::new(&EgressConfig::default()).expect("egress"));
    let sandbox = Sandbox::new(SandboxConfig::default(), egress).expect("a sandbox");
    let artefact = TrustedArtefact::vouch(compile(&wasm).expect("compiles"));
    let code = sandbox.load(&artefact).expect("loads");
    let descriptor = describe(&sandbox, &code).await.expect("describes");
    assert_eq!(descriptor.kind, ComponentKind::Transform);
    LoadedComponent::new(
        Arc::new(sandbox),
        code,
        &descriptor,
        EffectivePermissions::none(),
        Limits::default().for_kind(descriptor.kind),
    )
}

#[tokio::test]
async fn programs_run_and_say_what_is_wrong() {
    let jq = jq().await;
    let run = |program: &'static str, input: &'static str| {
        let jq = &jq;
        async move { jq.run_program(program.into(), input.into(), 2).await.result }
    };
    let outputs = run(".[] | .n * 2", r#"[{"n":1},{"n":2},{"n":3}]"#).await;
    assert_eq!(outputs, Ok(vec!["2".to_owned(), "4".to_owned()]));
    let checked = jq.check_program(".a | nosuch".into()).await.result;
    let Err(CallFailure::Provider { message, .. }) = checked else {
        panic!("{checked:?}");
    };
    assert_eq!(message, "line 1, column 6: no filter `nosuch`");
    let failed = run("error(\"no owner\")", "null").await;
    assert!(
        matches!(&failed, Err(CallFailure::Provider { message, .. }) if message == "no owner"),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_program_that_never_ends_or_wants_everything_is_ended() {
    let jq = jq().await;
    for program in [
        "last(repeat(1))",
        "def f: f; f",
        "[range(1e12)] | length",
        "\"x\" * 1000000000",
        "reduce range(1e9) as $i (\"x\"; . + .)",
        "[limit(1e9; repeat(\"abc\"))]",
    ] {
        let report = jq.run_program(program.into(), "null".into(), 1).await;
        let failed = report.result.expect_err(program);
        assert!(
            matches!(
                failed,
                CallFailure::Limit(_) | CallFailure::Trap(_) | CallFailure::Provider { .. }
            ),
            "{program}: {failed:?}"
        );
    }
    let after = jq.run_program("1 + 1".into(), "null".into(), 1).await;
    assert_eq!(
        after.result,
        Ok(vec!["2".to_owned()]),
        "the next is unharmed"
    );
}

#[tokio::test]
async fn a_language_is_no_provider() {
    let jq = jq().await;
    let report = jq.test_connection(GuestDocument::default()).await;
    let failed = report.result.expect_err("no such function");
    assert_eq!(
        failed,
        CallFailure::Unavailable("jq is a transform, which has no such function".to_owned())
    );
}

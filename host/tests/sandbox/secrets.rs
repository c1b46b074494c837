//! A guest and a receiver in league against a secret; and every host function against its guard.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookport::plugin::{CallReport, DocumentKind, EffectivePermissions, OptionsCall};
use serde_json::json;

use crate::harness::{
    Receiver, SECRET, call, deliver, denied, document, echo, fine, limits, load, own_url,
    own_url_on_loopback, summary, trap,
};

/// Neither the secret nor a large part of it, as Rust prints it or as it is.
fn assert_silent<T: std::fmt::Debug>(report: &CallReport<T>) {
    let printed = format!("{report:?}");
    let base64 = STANDARD.encode(SECRET);
    for trace in ["correct/horse", "battery", "correct%2F", &base64] {
        assert!(!printed.contains(trace), "{trace:?} in {printed}");
    }
    assert!(printed.contains("[secret]"), "it was there: {printed}");
}

#[tokio::test]
async fn a_secret_sent_back_is_masked_in_the_log() {
    let guest = load(own_url_on_loopback(), limits()).await;
    let report = deliver(
        &guest,
        json!({"mode": "betray in log", "url": echo().await}),
    )
    .await;
    assert_eq!(summary(&report), "logged");
    assert_silent(&report);
}

#[tokio::test]
async fn a_secret_sent_back_is_masked_on_stdout() {
    let guest = load(own_url_on_loopback(), limits()).await;
    let plan = json!({"mode": "betray in stdout", "url": echo().await});
    let report = deliver(&guest, plan).await;
    assert_eq!(summary(&report), "written");
    assert_silent(&report);
}

#[tokio::test]
async fn a_secret_sent_back_is_masked_in_the_receipt() {
    let guest = load(own_url_on_loopback(), limits()).await;
    let plan = json!({"mode": "betray in receipt", "url": echo().await});
    let report = deliver(&guest, plan).await;
    summary(&report);
    assert_silent(&report);
}

#[tokio::test]
async fn a_secret_sent_back_is_masked_in_the_error() {
    let guest = load(own_url_on_loopback(), limits()).await;
    let plan = json!({"mode": "betray in error", "url": echo().await});
    let report = deliver(&guest, plan).await;
    assert!(
        matches!(
            report.result,
            Err(hookport::plugin::CallFailure::Provider { .. })
        ),
        "{report:?}"
    );
    assert_silent(&report);
}

#[tokio::test]
async fn a_secret_sent_back_is_masked_in_a_panic() {
    let guest = load(own_url_on_loopback(), limits()).await;
    let plan = json!({"mode": "betray in panic", "url": echo().await});
    let report = deliver(&guest, plan).await;
    trap(&report);
    assert_silent(&report);
}

#[tokio::test]
async fn a_secret_sent_back_is_masked_in_options_and_in_a_tested_connection() {
    // Connections grant the host here: the field is the connection's.
    let permissions = EffectivePermissions {
        hosts: vec![hookport::plugin::HostRule::ConnectionField(
            "url".to_owned(),
        )],
        ..own_url_on_loopback()
    };
    let guest = load(permissions, limits()).await;
    let plan = json!({"mode": "betray in receipt", "url": echo().await});
    let connection = document(plan);
    let report = guest.test_connection(connection.clone()).await;
    assert!(report.result.is_ok(), "{report:?}");
    assert_silent(&report);
    let report = guest
        .options(OptionsCall {
            resolver: "any".into(),
            context: serde_json::from_str(&connection.json).expect("JSON"),
            connection: Some(connection),
            search: None,
            cache_scope: "test".into(),
        })
        .await;
    assert!(report.result.is_ok(), "{report:?}");
    assert_silent(&report);
}

#[tokio::test]
async fn a_migrated_document_that_holds_a_secret_is_refused() {
    let guest = load(own_url_on_loopback(), limits()).await;
    let plan = json!({"mode": "betray in document", "url": echo().await});
    let report = guest.migrate(DocumentKind::Config, document(plan)).await;
    let text = denied(&report);
    assert!(text.contains("holds the text of a secret"), "{text}");
    let printed = format!("{report:?}");
    assert!(!printed.contains("battery"), "{printed}");
}

#[tokio::test]
async fn a_secret_is_exposed_only_where_that_is_granted() {
    let guest = load(own_url(), limits()).await;
    let report = deliver(&guest, json!({"mode": "expose"})).await;
    let text = denied(&report);
    assert!(text.contains("secret.expose is not granted"), "{text}");

    let permissions = EffectivePermissions {
        expose_secrets: true,
        ..own_url()
    };
    let guest = load(permissions, limits()).await;
    let report = deliver(&guest, json!({"mode": "expose"})).await;
    assert_eq!(summary(&report), "[secret]", "and is masked even so");
}

/// What stops a host function from being misused.
enum Guard {
    /// Denied without a permission; the guest's mode that tries it.
    Permission(&'static str),
    /// Needs none: it is bound to the call's own documents or scope, and capped.
    OwnOnly,
}

/// Every function that a guest can import of ours, and outgoing `wasi:http`.
const GUARDS: [(&str, Guard); 11] = [
    ("secrets.hmac-sha256", Guard::OwnOnly),
    ("secrets.expose", Guard::Permission("expose")),
    ("secrets.get", Guard::OwnOnly),
    ("http.send", Guard::Permission("send")),
    ("log.write", Guard::OwnOnly),
    ("cache.get", Guard::OwnOnly),
    ("cache.set", Guard::OwnOnly),
    ("cache.delete", Guard::OwnOnly),
    ("oauth2.token", Guard::Permission("token")),
    ("oauth2.forget", Guard::OwnOnly),
    ("wasi:http", Guard::Permission("wasi send")),
];

#[test]
fn no_host_function_is_missing_from_the_list_of_guards() {
    let mut interface = "";
    let mut functions = Vec::new();
    for line in include_str!("../../../wit/provider.wit").lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("interface ") {
            interface = name.trim_end_matches(" {");
        } else if line.starts_with("world ") {
            break;
        } else if let Some((name, _)) = line.split_once(": func(") {
            functions.push(format!("{interface}.{name}"));
        }
    }
    let listed: Vec<_> = GUARDS.iter().map(|(name, _)| *name).collect();
    functions.push("wasi:http".to_owned());
    assert_eq!(functions, listed);
}

#[tokio::test]
async fn every_guarded_host_function_consults_the_permissions() {
    let receiver = Receiver::saying(fine()).await;
    let nothing = EffectivePermissions {
        allow_addresses: own_url_on_loopback().allow_addresses,
        ..EffectivePermissions::none()
    };
    let guest = load(nothing, limits()).await;
    for (name, guard) in GUARDS {
        if let Guard::Permission(mode) = guard {
            let plan = json!({"mode": mode, "url": receiver.url()});
            let report = guest.deliver(call(plan)).await;
            assert!(denied(&report).contains("granted"), "{name}: {report:?}");
        }
    }
    assert_eq!(receiver.connections(), 0);
}

//! The bundled providers as the components that are shipped, in the real sandbox, through the
//! real egress, against servers on loopback: what the SDK's native tests cannot show.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hookport::domain::clock::Timestamp;
use hookport::domain::event::{Event, EventTypeName};
use hookport::domain::id::IdGenerator;
use hookport::domain::provider::Descriptor;
use hookport::domain::retry::RetryAdvice;
use hookport::egress::{Egress, EgressConfig};
use hookport::plugin::artefact::TrustedArtefact;
use hookport::plugin::component::{LoadedComponent, describe};
use hookport::plugin::engine::{Sandbox, SandboxConfig, compile};
use hookport::plugin::limits::Limits;
use hookport::plugin::{
    CallFailure, CallReport, DeliverCall, EffectivePermissions, GuestDocument, HostRule,
    OptionsCall, Receipt, SecretSet,
};
use serde_json::{Value, json};
use sha2::Sha256;

const SIGNING_KEY: &[u8] = b"a key of twenty-four byte";
const BOT_TOKEN: &str = "xoxb-not-a-real-token";

/// A bundled component, granted what it asks for and the loopback network.
async fn load(name: &str) -> (LoadedComponent, Descriptor) {
    let folder = std::env::var_os("HOOKPORT_COMPONENTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/components"),
        PathBuf::from,
    );
    let file = folder.join(format!("{name}.wasm"));
    let wasm = std::fs::read(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; run cargo xtask providers", file.display()));
    let egress = Arc::new(Egress::new(&EgressConfig::default()).expect("egress"));
    let sandbox = Sandbox::new(SandboxConfig::default(), egress).expect("a sandbox");
    let artefact = TrustedArtefact::vouch(compile(&wasm).expect("compiles"));
    let code = sandbox.load(&artefact).expect("loads");
    let descriptor = describe(&sandbox, &code).await.expect("describes");
    let permissions = EffectivePermissions {
        hosts: descriptor
            .permissions
            .hosts
            .iter()
            .map(|host| HostRule::parse(host).expect("a host pattern"))
            .collect(),
        expose_secrets: false,
        allow_addresses: Arc::new(["127.0.0.0/8".parse().expect("a network")]),
    };
    let component = LoadedComponent::new(
        Arc::new(sandbox),
        code,
        &descriptor,
        permissions,
        Limits::default(),
    );
    (component, descriptor)
}

/// A document as the dispatcher prepares it: handles for the secrets, fields for host patterns.
fn document(json: &Value, secrets: &[(&str, &str)]) -> GuestDocument {
    let fields = json.as_object().expect("an object").iter();
    let fields = fields
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let secrets = secrets
        .iter()
        .map(|(handle, value)| ((*handle).to_owned(), (*value).to_owned().into()))
        .collect();
    GuestDocument {
        json: json.to_string().into(),
        version: 1,
        secrets: Arc::new(SecretSet::new(secrets)),
        fields: Arc::new(fields),
    }
}

fn call(config: GuestDocument, connection: Option<GuestDocument>) -> DeliverCall {
    let ids = IdGenerator::default();
    let now = Timestamp(1_704_067_200_000);
    DeliverCall {
        event: Arc::new(Event {
            id: ids.next(now, || 1),
            event_type: EventTypeName::parse("incident.created").expect("a name"),
            payload: r#"{"incident": {"id": 7, "title": "Disk <full>"}}"#.into(),
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
        subscription_name: "Test".into(),
        config,
        connection,
        cache_scope: "test".into(),
        timeout: None,
        preview: None,
    }
}

async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

type Received = Arc<Mutex<Vec<(HeaderMap, String)>>>;

fn received(seen: &Received) -> Vec<(HeaderMap, String)> {
    seen.lock().expect("not poisoned").clone()
}

fn failure<T: std::fmt::Debug>(report: CallReport<T>) -> (String, RetryAdvice) {
    match report.result.expect_err("a failure") {
        CallFailure::Provider { message, retry } => (message, retry),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_webhook_signs_with_a_secret_it_never_sees() {
    let seen = Received::default();
    let router = axum::Router::new()
        .route(
            "/in/7",
            post(
                |State(seen): State<Received>, headers: HeaderMap, body: String| async move {
                    // Echoing the credentials is what a careless receiver does.
                    let echo = format!("{:?}", headers.get("authorization"));
                    seen.lock().expect("not poisoned").push((headers, body));
                    (StatusCode::CREATED, Json(json!({"id": 12, "echo": echo})))
                },
            ),
        )
        .with_state(seen.clone());
    let base = serve(router).await;
    let (webhook, descriptor) = load("webhook").await;
    assert_eq!(descriptor.id.as_str(), "webhook");
    assert!(descriptor.connection.is_none());
    let key = format!("whsec_{}", STANDARD.encode(SIGNING_KEY));
    let config = document(
        &json!({
            "url": format!("{base}/in/{{{{ payload.incident.id }}}}"),
            "auth": {"type": "bearer", "token": {"$secret": "config#/auth/token"}},
            "signingSecret": {"$secret": "config#/signingSecret"},
            "externalIdPointer": "/id",
        }),
        &[
            ("config#/auth/token", "hunter2-hunter2"),
            ("config#/signingSecret", &key),
        ],
    );
    let report = webhook.deliver(call(config, None)).await;
    let receipt: Receipt = report.result.expect("delivered");
    assert_eq!(receipt.external_id.as_deref(), Some("12"));
    assert_eq!(report.http_status, Some(201));

    let (headers, body) = &received(&seen)[0];
    let header = |name: &str| headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("authorization"), "Bearer hunter2-hunter2");
    let signed = format!(
        "{}.{}.{body}",
        header("webhook-id"),
        header("webhook-timestamp")
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(SIGNING_KEY).expect("any key");
    mac.update(signed.as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(header("webhook-signature"), signature);
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["data"]["incident"]["id"], 7);
}

#[tokio::test]
async fn the_webhook_reaches_no_other_host() {
    let seen = Received::default();
    let base = serve(axum::Router::new().with_state(seen)).await;
    let (webhook, _) = load("webhook").await;
    // The field that grants the host names another port than the document that is sent.
    let mut config = document(&json!({"url": format!("{base}/in")}), &[]);
    config.fields = Arc::new(HashMap::from([(
        "url".into(),
        "http://127.0.0.1:1/".into(),
    )]));
    let report = webhook.deliver(call(config, None)).await;
    let denied = matches!(report.result, Err(CallFailure::Denied(_)));
    assert!(denied, "{:?}", report.result);
}

/// Slack as its reference describes it, as far as the provider uses it.
async fn slack_api(seen: Received) -> String {
    fn authorised(headers: &HeaderMap) -> bool {
        headers
            .get("authorization")
            .is_some_and(|value| value == &format!("Bearer {BOT_TOKEN}"))
    }
    fn refused(code: &str) -> Response {
        Json(json!({"ok": false, "error": code})).into_response()
    }
    async fn post_message(
        State(seen): State<Received>,
        headers: HeaderMap,
        body: String,
    ) -> Response {
        if !authorised(&headers) {
            return refused("invalid_auth");
        }
        let message: Value = serde_json::from_str(&body).expect("JSON");
        seen.lock().expect("not poisoned").push((headers, body));
        match message["channel"].as_str() {
            Some("C-busy") => {
                let body = Json(json!({"ok": false, "error": "ratelimited"}));
                (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], body).into_response()
            }
            Some("C-1") => Json(json!({"ok": true, "channel": "C-1", "ts": "1503435956.000247"}))
                .into_response(),
            _ => refused("channel_not_found"),
        }
    }
    async fn auth_test(headers: HeaderMap) -> Response {
        match authorised(&headers) {
            true => Json(json!({"ok": true, "team": "Acme", "user": "hookport"})).into_response(),
            false => refused("invalid_auth"),
        }
    }
    async fn list(headers: HeaderMap, query: Query<HashMap<String, String>>) -> Response {
        if !authorised(&headers) {
            return refused("invalid_auth");
        }
        let (names, next) = match query.get("cursor").map(String::as_str) {
            None => (["general", "random"], "page+2="),
            Some("page+2=") => (["alerts", "ops"], ""),
            Some(_) => return refused("invalid_cursor"),
        };
        let channels = names.map(|name| json!({"id": format!("C-{name}"), "name": name}));
        Json(json!({"ok": true, "channels": channels, "response_metadata": {"next_cursor": next}}))
            .into_response()
    }
    async fn incoming(State(seen): State<Received>, headers: HeaderMap, body: String) -> Response {
        let message: Value = serde_json::from_str(&body).expect("JSON");
        if message["text"].is_null() {
            return (StatusCode::BAD_REQUEST, "no_text").into_response();
        }
        seen.lock().expect("not poisoned").push((headers, body));
        "ok".into_response()
    }
    let router = axum::Router::new()
        .route("/api/chat.postMessage", post(post_message))
        .route("/api/auth.test", post(auth_test))
        .route("/api/conversations.list", get(list))
        .route("/services/T0/B0/secret-path", post(incoming))
        .with_state(seen);
    serve(router).await
}

fn bot(base: &str, token: &str) -> GuestDocument {
    document(
        &json!({
            "type": "bot",
            "token": {"$secret": "connection#/token"},
            "baseUrl": format!("{base}/api"),
        }),
        &[("connection#/token", token)],
    )
}

#[tokio::test]
async fn slack_as_a_bot() {
    let seen = Received::default();
    let base = slack_api(seen.clone()).await;
    let (slack, descriptor) = load("slack").await;
    assert_eq!(descriptor.id.as_str(), "slack");
    let deliver = |channel: &str| {
        let config = json!({"channel": channel, "textTemplate": "*{{ payload.incident.title }}*"});
        slack.deliver(call(document(&config, &[]), Some(bot(&base, BOT_TOKEN))))
    };

    let receipt = deliver("C-1").await.result.expect("delivered");
    assert_eq!(receipt.external_id.as_deref(), Some("1503435956.000247"));
    let message: Value = serde_json::from_str(&received(&seen)[0].1).expect("JSON");
    assert_eq!(message["text"], "*Disk &lt;full&gt;*");

    let (_, retry) = failure(deliver("C-busy").await);
    assert_eq!(retry, RetryAdvice::After(std::time::Duration::from_secs(7)));
    let (message, retry) = failure(deliver("C-gone").await);
    assert_eq!(retry, RetryAdvice::Never);
    assert!(message.contains("channel_not_found"), "{message}");
}

#[tokio::test]
async fn slack_tests_a_token_and_lists_channels() {
    let base = slack_api(Received::default()).await;
    let (slack, _) = load("slack").await;
    let report = slack.test_connection(bot(&base, BOT_TOKEN)).await;
    assert_eq!(
        report.result.as_deref(),
        Ok("Connected to Acme as hookport.")
    );
    let (message, _) = failure(slack.test_connection(bot(&base, "xoxb-another")).await);
    assert!(message.contains("invalid_auth"), "{message}");

    let options = |search: Option<&str>| OptionsCall {
        resolver: "channels".into(),
        connection: Some(bot(&base, BOT_TOKEN)),
        context: json!({}),
        search: search.map(Into::into),
        cache_scope: "test".into(),
    };
    let all = slack.options(options(None)).await.result.expect("listed");
    let labels: Vec<_> = all.iter().map(|option| option.label.as_str()).collect();
    assert_eq!(labels, ["#alerts", "#general", "#ops", "#random"]);
    let found = slack
        .options(options(Some("OPS")))
        .await
        .result
        .expect("listed");
    assert_eq!(found[0].value, "C-ops");
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn slack_through_an_incoming_webhook() {
    let seen = Received::default();
    let base = slack_api(seen.clone()).await;
    let (slack, _) = load("slack").await;
    let connection = |path: &str| {
        document(
            &json!({
                "type": "incomingWebhook",
                "url": {"$secret": "connection#/url"},
                "baseUrl": base,
            }),
            &[("connection#/url", &format!("{base}/services/T0/B0/{path}"))],
        )
    };
    let report = slack.test_connection(connection("secret-path")).await;
    assert!(report.result.is_ok(), "{:?}", report.result);
    assert!(received(&seen).is_empty(), "a test posts nothing");

    let config = document(&json!({}), &[]);
    let report = slack
        .deliver(call(config.clone(), Some(connection("secret-path"))))
        .await;
    assert_eq!(report.result.expect("delivered").external_id, None);
    let message: Value = serde_json::from_str(&received(&seen)[0].1).expect("JSON");
    assert!(
        message["text"].to_string().contains("Disk &lt;full&gt;"),
        "{message}"
    );

    let (message, retry) = failure(slack.deliver(call(config, Some(connection("gone")))).await);
    assert_eq!(retry, RetryAdvice::Never);
    assert!(!message.contains("gone"), "the URL is secret: {message}");
}

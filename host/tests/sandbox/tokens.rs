//! The import `oauth2`: one fetch for many calls, nothing of token or credentials for the guest.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookport::plugin::{EffectivePermissions, GuestDocument, SecretSet};
use serde_json::{Value, json};

use crate::harness::{
    SECRET, SECRET_HANDLE, call, deliver, denied, limits, load, own_url_on_loopback, summary,
};

/// What the token endpoint was asked, and what it says.
#[derive(Default)]
struct Issuer {
    asked: Mutex<Vec<(Option<String>, String)>>,
    refusal: Mutex<Option<(StatusCode, Value)>>,
    lifetime: Mutex<Value>,
}

async fn token(State(issuer): State<Arc<Issuer>>, headers: HeaderMap, form: String) -> Response {
    let authorization = headers.get(header::AUTHORIZATION);
    let authorization = authorization.map(|value| value.to_str().expect("text").to_owned());
    let mut asked = issuer.asked.lock().expect("lock");
    asked.push((authorization, form));
    if let Some((status, body)) = issuer.refusal.lock().expect("lock").clone() {
        return (status, axum::Json(body)).into_response();
    }
    let answer = json!({
        "access_token": format!("token-number-{}", asked.len()),
        "token_type": "bearer",
        "expires_in": *issuer.lifetime.lock().expect("lock"),
    });
    axum::Json(answer).into_response()
}

async fn api(headers: HeaderMap) -> String {
    format!("{:?}", headers.get(header::AUTHORIZATION))
}

async fn issuer() -> (Arc<Issuer>, String) {
    let issuer = Arc::new(Issuer::default());
    *issuer.lifetime.lock().expect("lock") = json!(3_600);
    let router = axum::Router::new()
        .route("/in", get(api))
        .route("/in/token", post(token))
        .with_state(issuer.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (issuer, format!("http://{address}/in"))
}

#[tokio::test]
async fn a_token_is_fetched_once_and_never_seen() {
    let (issuer, url) = issuer().await;
    let guest = load(own_url_on_loopback(), limits()).await;
    for _ in 0..3 {
        let report = deliver(&guest, json!({"mode": "token", "url": url})).await;
        let words = summary(&report);
        assert_eq!(words, "oauth2#0 oauth2#0 200 Some(\"Bearer [secret]\")");
        let printed = format!("{report:?}");
        assert!(!printed.contains("token-number"), "{printed}");
    }
    let asked = issuer.asked.lock().expect("lock").clone();
    let [(authorization, form)] = asked.as_slice() else {
        panic!("asked {} times", asked.len());
    };
    let sent = authorization.as_deref().expect("credentials");
    let sent = STANDARD
        .decode(sent.strip_prefix("Basic ").expect("Basic"))
        .expect("base64");
    let sent = String::from_utf8(sent).expect("text");
    assert_eq!(sent, "hostile:correct%2Fhorse%20%22battery%22%20staple");
    assert_eq!(
        form,
        "grant_type=client_credentials&scope=read+write&audience=all+of+it"
    );
}

#[tokio::test]
async fn a_token_that_was_forgotten_or_has_expired_is_fetched_anew() {
    let (issuer, url) = issuer().await;
    let guest = load(own_url_on_loopback(), limits()).await;
    deliver(&guest, json!({"mode": "token", "url": url})).await;
    deliver(&guest, json!({"mode": "forget token", "url": url})).await;
    assert_eq!(issuer.asked.lock().expect("lock").len(), 2, "forgotten");

    *issuer.lifetime.lock().expect("lock") = json!("0");
    deliver(&guest, json!({"mode": "forget token", "url": url})).await;
    deliver(&guest, json!({"mode": "token", "url": url})).await;
    let asked = issuer.asked.lock().expect("lock").len();
    assert!(
        asked >= 4,
        "a token without a lifetime is not kept: {asked}"
    );
}

#[tokio::test]
async fn other_credentials_and_other_connections_get_tokens_of_their_own() {
    let (issuer, url) = issuer().await;
    let guest = load(own_url_on_loopback(), limits()).await;
    let plan = json!({"mode": "token", "url": url});
    deliver(&guest, plan.clone()).await;
    let mut other = call(plan.clone());
    other.cache_scope = "another connection".into();
    assert!(guest.deliver(other).await.result.is_ok());
    assert_eq!(issuer.asked.lock().expect("lock").len(), 2);

    let mut changed = call(plan);
    let secrets = [(SECRET_HANDLE.to_owned(), "a new password".to_owned().into())];
    changed.config = GuestDocument {
        secrets: Arc::new(SecretSet::new(secrets.into())),
        ..changed.config
    };
    assert!(guest.deliver(changed).await.result.is_ok());
    assert_eq!(issuer.asked.lock().expect("lock").len(), 3);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words_without_the_secret() {
    let (issuer, url) = issuer().await;
    let guest = load(own_url_on_loopback(), limits()).await;
    let refuse = |status: StatusCode, body: Value| {
        *issuer.refusal.lock().expect("lock") = Some((status, body));
    };
    refuse(
        StatusCode::UNAUTHORIZED,
        json!({"error": "invalid_client", "error_description": format!("{SECRET} is wrong")}),
    );
    let plan = json!({"mode": "token", "url": url});
    let report = deliver(&guest, plan.clone()).await;
    let printed = format!("{report:?}");
    assert!(
        printed.contains("invalid_client: [secret] is wrong"),
        "{printed}"
    );

    refuse(StatusCode::SERVICE_UNAVAILABLE, json!({}));
    let report = deliver(&guest, plan.clone()).await;
    assert!(
        format!("{report:?}").contains("Unavailable((503, None))"),
        "{report:?}"
    );

    refuse(StatusCode::OK, json!({"secret_answer": "no token in here"}));
    let report = deliver(&guest, plan).await;
    let printed = format!("{report:?}");
    assert!(
        printed.contains("is no token") && !printed.contains("no token in here"),
        "{printed}"
    );
}

#[tokio::test]
async fn a_token_endpoint_must_be_granted() {
    let (issuer, url) = issuer().await;
    let nothing = EffectivePermissions {
        allow_addresses: own_url_on_loopback().allow_addresses,
        ..EffectivePermissions::none()
    };
    let guest = load(nothing, limits()).await;
    let report = deliver(&guest, json!({"mode": "token", "url": url})).await;
    assert!(denied(&report).contains("granted"), "{report:?}");
    assert!(issuer.asked.lock().expect("lock").is_empty());
}

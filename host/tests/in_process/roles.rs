//! Who may call what: every operation of the OpenAPI document, with every role.

use serde_json::{Value, json};

use crate::harness::{Gateway, bare_request, json_request, operations};

const OPEN: &[&str] = &["", "emitter", "viewer", "operator", "admin"];
const EMIT: &[&str] = &["emitter", "operator", "admin"];
const READ: &[&str] = &["viewer", "operator", "admin"];
const OPERATE: &[&str] = &["operator", "admin"];
const ADMINISTER: &[&str] = &["admin"];

/// Who may call what, as docs/api.md says.
fn roles(method: &str, path: &str) -> &'static [&'static str] {
    let last = path.rsplit('/').next().unwrap_or_default();
    match (method, path) {
        ("GET", "/health" | "/livez" | "/readyz") => OPEN,
        // Verified by its own means.
        ("POST", "/webhooks/nobody") => OPEN,
        ("POST", "/events") => EMIT,
        (_, path) if path.starts_with("/keys") || path.starts_with("/audit") => ADMINISTER,
        ("GET", _) => READ,
        ("POST", _)
            if [
                "retry",
                "pause",
                "resume",
                "test",
                "options",
                "preview",
                "subscription-previews",
                "test-event",
                "replay",
                "replays",
                "cancel",
                "drain",
                "requeue",
                "discard",
            ]
            .contains(&last) =>
        {
            OPERATE
        }
        _ => ADMINISTER,
    }
}

#[tokio::test]
async fn every_operation_is_open_to_its_roles_and_to_no_other() {
    let gateway = Gateway::start().await;
    for (method, path, operation) in operations() {
        let roles = roles(&method, &path);
        for role in OPEN {
            // A body that is refused: what is tested comes before it is looked at.
            let request = match operation.get("requestBody") {
                Some(_) => json_request(&method, &path, "null"),
                None => bare_request(&method, &path),
            };
            let answer = gateway.send(role, request).await;
            if roles.contains(role) {
                assert!(![401, 403, 500].contains(&answer.status), "{}", answer.call);
            } else if role.is_empty() {
                answer.problem(401, "unauthorized");
                assert!(answer.headers.contains_key("www-authenticate"));
            } else {
                answer.problem(403, "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn a_key_works_from_its_creation_to_its_revocation_and_is_shown_once() {
    let gateway = Gateway::start().await;
    let answer = gateway
        .post("/keys", &json!({"name": "ci", "role": "viewer"}))
        .await;
    assert_eq!(
        answer.headers.get("cache-control").map(|v| v.as_bytes()),
        Some(&b"no-store"[..])
    );
    let created = answer.expect(201);
    let text = created["key"].as_str().expect("a key");
    assert!(text.starts_with("hp_") && text.len() > 40, "{text}");
    let with_key = |key: String| {
        let mut request = bare_request("GET", "/events");
        let value = format!("Bearer {key}").parse().expect("a header");
        request.headers_mut().insert("authorization", value);
        request
    };
    gateway
        .send("", with_key(text.to_owned()))
        .await
        .expect(200);
    gateway
        .send("", with_key(format!("{text}x")))
        .await
        .problem(401, "unauthorized");

    let listed = gateway.get("/keys").await;
    listed.expect(200);
    assert!(!listed.text.contains(text), "{}", listed.text);
    let id = created["id"].as_str().expect("an id");
    gateway.delete(&format!("/keys/{id}")).await.expect(204);
    gateway
        .send("", with_key(text.to_owned()))
        .await
        .problem(401, "unauthorized");
    gateway
        .delete(&format!("/keys/{id}"))
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn the_last_admin_key_stays() {
    let gateway = Gateway::start().await;
    let admin_of = |keys: &Value| {
        let keys = keys["items"].as_array().expect("items").clone();
        let found = keys
            .iter()
            .find(|key| key["role"] == "admin" && key["revokedAt"].is_null());
        found.expect("an admin")["id"]
            .as_str()
            .expect("an id")
            .to_owned()
    };
    let id = admin_of(&gateway.get("/keys").await.expect(200));
    gateway
        .delete(&format!("/keys/{id}"))
        .await
        .problem(409, "conflict");
    gateway
        .post("/keys", &json!({"name": "second", "role": "admin"}))
        .await
        .expect(201);
    gateway.delete(&format!("/keys/{id}")).await.expect(204);
}

//! Microsoft's side of Teams as far as the provider uses it: a Workflows webhook
//! (<https://support.microsoft.com/office/8ae491c7-0394-4861-ba59-055e33f75498>), the token endpoint
//! (<https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>) and Graph
//! (<https://learn.microsoft.com/graph/api/chatmessage-post>, `/groups`, `/teams/{id}/channels`,
//! `/organization`, throttling).

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::receiver::{Received, Receiver, Reply};

/// The client secret that this tenant knows; the client is `client-1`, the tenant `tenant-1`.
pub const SECRET: &str = "client~secret/of the app";
/// Path and query of the workflow's webhook.
pub const WORKFLOW: &str =
    "/workflows/abc/triggers/manual/paths/invoke?api-version=2016-06-01&sig=s1gn4ture";

/// Starts one. The first `limited` messages are answered 429 with `Retry-After: 1`; the first token
/// is revoked before it is used.
pub async fn start(limited: usize) -> Receiver {
    let (tokens, posts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    Receiver::start(move |_, request| {
        if request.path == "/tenant-1/oauth2/v2.0/token" {
            return token(request, &tokens);
        }
        if request.path.starts_with("/workflows/") {
            return workflow(request);
        }
        let current = format!("Bearer access-token-{}", tokens.load(Ordering::Relaxed));
        let revoked = tokens.load(Ordering::Relaxed) < 2;
        if revoked || request.header("authorization") != current {
            return error(
                401,
                "InvalidAuthenticationToken",
                "Access token has expired or is not yet valid.",
            );
        }
        let path = request.path.split('?').next().unwrap_or("");
        match (request.method.as_str(), path) {
            ("GET", "/v1.0/organization") => {
                Reply::json(&json!({"value": [{"displayName": "Contoso"}]}))
            }
            ("GET", "/v1.0/groups") => {
                Reply::json(&json!({"value": [{"id": "team-1", "displayName": "Operations"}]}))
            }
            ("GET", "/v1.0/teams/team-1/channels") => {
                Reply::json(&json!({"value": [{"id": "channel-1", "displayName": "General"}]}))
            }
            ("POST", path)
                if path.starts_with("/v1.0/teams/team-1/channels/channel-1/messages") =>
            {
                if posts.fetch_add(1, Ordering::Relaxed) < limited {
                    return Reply::status(429).header("retry-after", "1").body("{}");
                }
                message(request)
            }
            _ => error(404, "NotFound", "Resource not found."),
        }
    })
    .await
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({"error": {"code": code, "message": message}});
    Reply::status(status)
        .header("content-type", "application/json")
        .body(body.to_string())
}

fn token(request: &Received, tokens: &AtomicUsize) -> Reply {
    let form = String::from_utf8_lossy(&request.body);
    let has = |pair: &str| form.split('&').any(|one| one == pair);
    let known = has("client_id=client-1") && has("client_secret=client%7Esecret%2Fof+the+app");
    if !known || !has("grant_type=client_credentials") {
        let body = json!({"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."});
        return Reply::status(401).body(body.to_string());
    }
    let number = tokens.fetch_add(1, Ordering::Relaxed) + 1;
    Reply::json(&json!({
        "token_type": "Bearer", "expires_in": 3599, "access_token": format!("access-token-{number}"),
    }))
}

fn is_card(content: &Value) -> bool {
    content["type"] == "AdaptiveCard"
        && content["version"].is_string()
        && content["body"].is_array()
}

fn workflow(request: &Received) -> Reply {
    if request.path != WORKFLOW {
        return error(
            401,
            "DirectApiAuthorizationRequired",
            "The request must be authenticated only by Shared Access scheme.",
        );
    }
    let message = request.json();
    let attachment = &message["attachments"][0];
    let sound = message["type"] == "message"
        && attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        && is_card(&attachment["content"]);
    if sound {
        Reply::status(202)
    } else {
        error(
            400,
            "TriggerInputSchemaMismatch",
            "The input body does not match the schema.",
        )
    }
}

fn message(request: &Received) -> Reply {
    let message = request.json();
    let attachment = &message["attachments"][0];
    let marker = format!(
        "<attachment id=\"{}\"></attachment>",
        attachment["id"].as_str().unwrap_or("")
    );
    let content = attachment["content"].as_str().unwrap_or("");
    let card: Value = serde_json::from_str(content).unwrap_or_default();
    if message["body"]["content"] != marker || !is_card(&card) {
        return error(400, "BadRequest", "Attachment is missing in the body.");
    }
    Reply::status(201)
        .header("content-type", "application/json")
        .body(json!({"id": "1616990032035"}).to_string())
}

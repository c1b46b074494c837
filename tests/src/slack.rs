//! Slack as far as the provider uses it: answers, error codes and checks as documented on
//! <https://docs.slack.dev/>.

use serde_json::{Value, json};

use crate::receiver::{Received, Receiver, Reply};

/// The bot token that this Slack knows.
pub const TOKEN: &str = "xoxb-1234-faithful-5678";
/// The path of the incoming webhook that this Slack knows.
pub const WEBHOOK_PATH: &str = "/services/T000/B000/sEcReTpAtH0987";

/// Starts one. The first `limited` posts are answered 429 with `Retry-After: 1`.
pub async fn start(limited: usize) -> Receiver {
    let posts = std::sync::atomic::AtomicUsize::new(0);
    Receiver::start(move |_, request| {
        let path = request.path.split('?').next().unwrap_or("");
        if path == WEBHOOK_PATH || path.starts_with("/services/") {
            return incoming_webhook(path, request);
        }
        if request.header("authorization") != format!("Bearer {TOKEN}") {
            return refused("invalid_auth");
        }
        match path {
            "/api/auth.test" => Reply::json(&json!({
                "ok": true, "url": "https://example.slack.com/", "team": "Example", "user": "hookport",
                "team_id": "T000", "user_id": "U000", "bot_id": "B000"
            })),
            "/api/conversations.list" => channels(request),
            "/api/chat.postMessage" => {
                if posts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < limited {
                    return Reply::status(429)
                        .header("retry-after", "1")
                        .header("content-type", "application/json; charset=utf-8")
                        .body(json!({"ok": false, "error": "ratelimited"}).to_string());
                }
                post_message(request)
            }
            _ => refused("unknown_method"),
        }
    })
    .await
}

fn refused(code: &str) -> Reply {
    Reply::json(&json!({"ok": false, "error": code}))
}

fn incoming_webhook(path: &str, request: &Received) -> Reply {
    if path != WEBHOOK_PATH {
        return Reply::status(404).body("no_service");
    }
    let Ok(message) = serde_json::from_slice::<Value>(&request.body) else {
        return Reply::status(400).body("invalid_payload");
    };
    let has = |field: &str| match &message[field] {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if has("text") || has("blocks") || has("attachments") {
        Reply::ok().body("ok")
    } else {
        Reply::status(400).body("no_text")
    }
}

fn post_message(request: &Received) -> Reply {
    if !request
        .header("content-type")
        .starts_with("application/json")
    {
        return refused("invalid_form_data");
    }
    let Ok(message) = serde_json::from_slice::<Value>(&request.body) else {
        return refused("invalid_json");
    };
    let channel = match message["channel"].as_str() {
        Some("C1" | "#alerts" | "alerts") => "C1",
        Some("C2") => return refused("not_in_channel"),
        Some("C3") => return refused("is_archived"),
        _ => return refused("channel_not_found"),
    };
    if message["text"].as_str().unwrap_or("").is_empty() && !message["blocks"].is_array() {
        return refused("no_text");
    }
    Reply::json(&json!({
        "ok": true, "channel": channel, "ts": "1503435956.000247",
        "message": {"text": message["text"], "type": "message", "ts": "1503435956.000247"}
    }))
}

/// Two pages.
fn channels(request: &Received) -> Reply {
    let second = request.path.contains("cursor=");
    let (channels, next) = if second {
        (
            json!([{"id": "C3", "name": "random", "is_private": false, "is_archived": false}]),
            "",
        )
    } else {
        (
            json!([
                {"id": "C1", "name": "alerts", "is_private": false, "is_archived": false},
                {"id": "C2", "name": "alerts-private", "is_private": true, "is_archived": false}
            ]),
            "dGVhbTpDMDYxRkE1UEI=",
        )
    };
    Reply::json(&json!({
        "ok": true, "channels": channels, "response_metadata": {"next_cursor": next}
    }))
}

//! Slack as far as the provider uses it: answers, error codes and checks as documented on
//! <https://docs.slack.dev/>: the reference of each method (chat.postMessage, chat.update,
//! conversations.list, auth.test), "Sending messages using incoming webhooks" and "Rate limits".
//! Two things are stricter than Slack, so that a mistake is noticed: an argument that the method's
//! reference does not name is refused with `invalid_arg_name`, and so is a reply to a message that
//! was never posted (`thread_not_found`, which Slack documents for conversations.replies).

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::receiver::{Received, Receiver, Reply};

/// The bot token that this Slack knows.
pub const TOKEN: &str = "xoxb-1234-faithful-5678";
/// The path of the incoming webhook that this Slack knows.
pub const WEBHOOK_PATH: &str = "/services/T000/B000/sEcReTpAtH0987";

/// The timestamp of the first message; the second's ends in 248.
pub const FIRST_TS: &str = "1503435956.000247";

/// What `chat.postMessage` takes, without attachments and deprecated arguments.
const POST_ARGUMENTS: [&str; 9] = [
    "channel",
    "text",
    "blocks",
    "thread_ts",
    "reply_broadcast",
    "unfurl_links",
    "unfurl_media",
    "username",
    "icon_emoji",
];
/// What `chat.update` takes, likewise.
const UPDATE_ARGUMENTS: [&str; 6] = [
    "channel",
    "ts",
    "text",
    "blocks",
    "parse",
    "reply_broadcast",
];

/// Starts one. The first `limited` posts are answered 429 with `Retry-After: 1`.
pub async fn start(limited: usize) -> Receiver {
    let posts = std::sync::atomic::AtomicUsize::new(0);
    let messages = Mutex::new(BTreeSet::new());
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
                let mut messages = messages.lock().unwrap_or_else(PoisonError::into_inner);
                post_message(&mut messages, request).unwrap_or_else(refused)
            }
            "/api/chat.update" => {
                let messages = messages.lock().unwrap_or_else(PoisonError::into_inner);
                update(&messages, request).unwrap_or_else(refused)
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

/// The arguments of a call, when the method takes them all.
fn arguments(request: &Received, known: &[&str]) -> Result<Value, &'static str> {
    if !request
        .header("content-type")
        .starts_with("application/json")
    {
        return Err("invalid_form_data");
    }
    let arguments: Value = serde_json::from_slice(&request.body).map_err(|_| "invalid_json")?;
    let mut names = arguments.as_object().into_iter().flatten();
    if names.any(|(name, _)| !known.contains(&name.as_str())) {
        return Err("invalid_arg_name");
    }
    if arguments["text"].as_str().unwrap_or("").is_empty() && !arguments["blocks"].is_array() {
        return Err("no_text");
    }
    Ok(arguments)
}

fn post_message(
    messages: &mut BTreeSet<String>,
    request: &Received,
) -> Result<Reply, &'static str> {
    let message = arguments(request, &POST_ARGUMENTS)?;
    let channel = match message["channel"].as_str() {
        Some("C1" | "#alerts" | "alerts") => "C1",
        Some("C2") => return Err("not_in_channel"),
        Some("C3") => return Err("is_archived"),
        _ => return Err("channel_not_found"),
    };
    if let Some(thread) = message["thread_ts"].as_str()
        && !messages.contains(thread)
    {
        return Err("thread_not_found");
    }
    let ts = format!("1503435956.{:06}", 247 + messages.len());
    messages.insert(ts.clone());
    Ok(Reply::json(&json!({
        "ok": true, "channel": channel, "ts": ts,
        "message": {"text": message["text"], "type": "message", "ts": ts}
    })))
}

/// Takes the channel's id only, as Slack does.
fn update(messages: &BTreeSet<String>, request: &Received) -> Result<Reply, &'static str> {
    let message = arguments(request, &UPDATE_ARGUMENTS)?;
    if message["channel"] != "C1" {
        return Err("channel_not_found");
    }
    let ts = message["ts"].as_str().unwrap_or("");
    if !messages.contains(ts) {
        return Err("message_not_found");
    }
    Ok(Reply::json(&json!({
        "ok": true, "channel": "C1", "ts": ts, "text": message["text"],
        "message": {"text": message["text"], "user": "U000"}
    })))
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

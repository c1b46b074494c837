//! The Bot API as far as the provider uses it: <https://core.telegram.org/bots/api> (`getMe`,
//! `sendMessage`, `editMessageText`, "Making requests", `ResponseParameters`), and the rules of
//! MarkdownV2 from its "Formatting options".

use serde_json::{Value, json};

use crate::receiver::{Received, Receiver, Reply};

/// The bot token that this server knows.
pub const TOKEN: &str = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw";

/// Starts one. The first `limited` messages are answered 429 with `retry_after` in the body only.
pub async fn start(limited: usize) -> Receiver {
    let messages = std::sync::atomic::AtomicUsize::new(0);
    Receiver::start(move |_, request| {
        let Some(method) = request.path.strip_prefix(&format!("/bot{TOKEN}/")) else {
            return refused(404, "Not Found", json!({}));
        };
        match method {
            "getMe" => ok(json!({"id": 110_201_543, "is_bot": true, "username": "ops_bot"})),
            "getUpdates" => {
                ok(json!([{"update_id": 1, "message": {"chat": {"id": -1001, "title": "Ops"}}}]))
            }
            "sendMessage" => {
                let number = messages.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number < limited {
                    return refused(
                        429,
                        "Too Many Requests: retry after 1",
                        json!({"retry_after": 1}),
                    );
                }
                send(request, number)
            }
            "editMessageText" => {
                ok(json!({"message_id": request.json()["message_id"], "chat": {"id": -1001}}))
            }
            _ => refused(404, "Not Found: method not found", json!({})),
        }
    })
    .await
}

fn ok(result: Value) -> Reply {
    Reply::json(&json!({"ok": true, "result": result}))
}

fn refused(code: u16, description: &str, parameters: Value) -> Reply {
    let body = json!({"ok": false, "error_code": code, "description": description, "parameters": parameters});
    Reply::status(code)
        .header("content-type", "application/json")
        .body(body.to_string())
}

fn send(request: &Received, number: usize) -> Reply {
    let message = request.json();
    let text = message["text"].as_str().unwrap_or("");
    if text.is_empty() {
        return refused(400, "Bad Request: message text is empty", json!({}));
    }
    if message["chat_id"] != "-1001" {
        return refused(400, "Bad Request: chat not found", json!({}));
    }
    if message["parse_mode"] == "MarkdownV2"
        && let Some(reserved) = unescaped(text)
    {
        let description = format!(
            "Bad Request: can't parse entities: Character '{reserved}' is reserved and must be escaped with the preceding '\\'"
        );
        return refused(400, &description, json!({}));
    }
    ok(json!({"message_id": 42 + number, "chat": {"id": -1001, "type": "supergroup"}}))
}

/// The first character that cannot stand alone in MarkdownV2 (those that open entities aside).
fn unescaped(text: &str) -> Option<char> {
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '.' | '!' | '-' | '+' | '=' | '{' | '}' | '#' | '>' | '|' | '(' | ')' => {
                return Some(c);
            }
            _ => {}
        }
    }
    None
}

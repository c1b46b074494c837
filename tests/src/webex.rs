//! Webex's REST API as far as the provider uses it: <https://developer.webex.com/messaging/docs/api/v1/messages>,
//! `/people/me`, `/rooms` with pages by `Link`, errors and 429 as in <https://developer.webex.com/docs/basics>.

use serde_json::json;

use crate::receiver::{Received, Receiver, Reply};

/// The bot token that this Webex knows.
pub const TOKEN: &str = "webex-bot-token-1234567890";

/// Starts one. The first `limited` messages are answered 429 with `Retry-After: 1`.
pub async fn start(limited: usize) -> Receiver {
    let posts = std::sync::atomic::AtomicUsize::new(0);
    Receiver::start(move |_, request| {
        if request.header("authorization") != format!("Bearer {TOKEN}") {
            return refused(401, "The request requires a valid access token set in the Authorization request header.");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        match (request.method.as_str(), path) {
            ("GET", "/v1/people/me") => Reply::json(&json!({"displayName": "Ops bot", "type": "bot"})),
            ("GET", "/v1/rooms") if query.contains("cursor") => {
                Reply::json(&json!({"items": [{"id": "room-2", "title": "Operations, old"}]}))
            }
            ("GET", "/v1/rooms") => {
                let next = format!("<http://{}/v1/rooms?cursor=x>; rel=\"next\"", request.header("host"));
                Reply::json(&json!({"items": [{"id": "room-1", "title": "Operations"}]})).header("link", next)
            }
            ("POST", "/v1/messages") => {
                let number = posts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number < limited {
                    return Reply::status(429).header("retry-after", "1").body("{}");
                }
                post(request, number)
            }
            _ => refused(404, "The requested resource could not be found."),
        }
    })
    .await
}

fn refused(status: u16, message: &str) -> Reply {
    let body = json!({"message": message, "errors": [{"description": message}], "trackingId": "ROUTER_5F00"});
    Reply::status(status)
        .header("content-type", "application/json")
        .body(body.to_string())
}

fn post(request: &Received, number: usize) -> Reply {
    let message = request.json();
    if message["roomId"] != "room-1" {
        return refused(404, "Could not find a room with provided ID.");
    }
    let markdown = message["markdown"].as_str().unwrap_or("");
    if markdown.is_empty() || markdown.len() > 7_439 {
        return refused(400, "Message length limited to 7439 characters");
    }
    Reply::json(
        &json!({"id": format!("message-{number}"), "roomId": "room-1", "parentId": message["parentId"]}),
    )
}

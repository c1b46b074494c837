//! Posting through an incoming webhook.
//!
//! The answer is a status and a word: `ok`, or what went wrong.
//! <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors>

use hookport_sdk::{Context, DeliveryError, Receipt, Request, Response, Secret};

use crate::message::Message;
use crate::web_api::{JSON, LIMITED_WAIT, remedy};

/// Posts a message.
pub fn post(ctx: &Context, url: &Secret, message: &Message) -> Result<Receipt, DeliveryError> {
    let response = ctx.send(Request::post(url).body(JSON, message.for_webhook()))?;
    if response.is_success() {
        // There is no external id: Slack does not say which message it made.
        return Ok(Receipt::new("posted to the webhook's channel"));
    }
    let message = describe(&response);
    if let Some(wait) = response.retry_after(ctx.now()) {
        return Err(DeliveryError::after(wait, message));
    }
    Err(match response.status {
        429 => DeliveryError::after(LIMITED_WAIT, message),
        408 | 500.. => DeliveryError::transient(message),
        _ => DeliveryError::permanent(message),
    })
}

/// Finds out whether the URL is good without posting: Slack refuses a message without text, but
/// only after it has found the webhook.
pub fn test(ctx: &Context, url: &Secret) -> Result<String, String> {
    let response = ctx
        .send(Request::post(url).body(JSON, "{}"))
        .map_err(|error| error.to_string())?;
    match (response.status, code(&response).as_deref()) {
        (400, Some("no_text" | "missing_text_or_fallback_or_attachments")) => {
            Ok("Slack knows this webhook. No message was posted.".into())
        }
        (200..300, _) => Ok("The receiver took an empty message.".into()),
        _ => Err(describe(&response)),
    }
}

fn describe(response: &Response) -> String {
    let status = response.status;
    match code(response) {
        Some(code) => match remedy(&code) {
            Some(remedy) => format!("Slack answered {status} {code}: {remedy}"),
            None => format!("Slack answered {status} {code}"),
        },
        None => format!("Slack answered {status}"),
    }
}

/// The word in the body, where it is one: anything else is a page of something in between.
fn code(response: &Response) -> Option<String> {
    let text = response.text();
    let word = text.trim();
    let is_word = (1..=64).contains(&word.len())
        && word
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_word.then(|| word.to_owned())
}

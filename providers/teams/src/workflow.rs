//! Webhooks of the Workflows app, "Post to a channel when a webhook request is received":
//! <https://support.microsoft.com/office/8ae491c7-0394-4861-ba59-055e33f75498>. Accepted is 202
//! (or 200), with an empty body.

use hookport_sdk::serde_json::{self, Value, json};
use hookport_sdk::{Context, DeliveryError, Receipt, Request, Secret};

/// Posts a card.
pub fn post(ctx: &Context, url: &Secret, card: &Value) -> Result<Receipt, DeliveryError> {
    let message = json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": card,
        }],
    });
    let response = ctx.send(Request::post(url).json(&message))?;
    if response.is_success() {
        return Ok(Receipt::new(format!(
            "the workflow took the card ({})",
            response.status
        )));
    }
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let said = body["error"]["message"]
        .as_str()
        .or_else(|| body["message"].as_str());
    let said = said.map_or(String::new(), |text| format!(": {text}"));
    let message = |remedy: &str| {
        format!(
            "the workflow refused the card ({}){said}{remedy}",
            response.status
        )
    };
    let wait = response.retry_after(ctx.now());
    Err(match response.status {
        401 | 403 => DeliveryError::permanent(message(
            "; copy the whole URL again from the workflow, its signature included",
        )),
        404 | 410 => DeliveryError::permanent(message("; the workflow is gone or switched off")),
        413 => DeliveryError::permanent(message("; shorten the card")),
        429 => DeliveryError::after(wait.unwrap_or(crate::graph::LIMITED_WAIT), message("")),
        408 | 409 | 500..=599 => match wait {
            Some(wait) => DeliveryError::after(wait, message("")),
            None => DeliveryError::transient(message("")),
        },
        _ => DeliveryError::permanent(message("")),
    })
}

//! Posts events to a Webex space as a bot: <https://developer.webex.com/messaging/docs/api/v1/messages>.
//!
//! Webex has no idempotency key for messages: an attempt whose answer was lost posts twice.

mod api;

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Value, json};
use hookport_sdk::template::Templates;

use crate::api::Client;

/// "The maximum message length is 7439 bytes."
const MESSAGE_BYTES_MAX: usize = 7_439;

/// What a subscription sets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Webex message")]
pub struct Config {
    /// The space's identifier.
    #[schemars(
        title = "Space",
        length(min = 1),
        extend("x-options-resolver" = "rooms", "x-searchable" = true)
    )]
    pub room_id: String,
    /// Template of the message in Webex's Markdown. Left out: the event's type, time and payload.
    #[serde(default)]
    #[schemars(title = "Message", extend("x-template" = true))]
    pub markdown_template: Option<String>,
    /// Template of an Adaptive Card, as JSON: shown in place of the message where it can be.
    #[serde(default)]
    #[schemars(title = "Card", extend("x-template" = true))]
    pub card_template: Option<String>,
    /// What later events of the same correlation key do.
    #[serde(default)]
    #[schemars(title = "Follow-up events")]
    pub follow_up: FollowUp,
}

/// What a follow-up event does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(crate = "hookport_sdk::serde", rename_all = "camelCase")]
#[schemars(crate = "hookport_sdk::schemars")]
pub enum FollowUp {
    /// Replies in the thread of the first message.
    #[default]
    Reply,
    /// Replaces the first message. Webex allows ten edits, and none of a message with a card.
    Edit,
    /// Posts a message of its own.
    Post,
}

/// How to reach Webex.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Webex bot")]
pub struct Connection {
    /// The bot's access token.
    #[schemars(title = "Bot token")]
    pub bot_token: Secret,
    /// Where the API is, when that is not <https://webexapis.com/v1>.
    #[serde(default)]
    #[schemars(title = "Base URL")]
    pub base_url: Option<String>,
}

/// The provider.
pub struct Webex;

impl Provider for Webex {
    type Config = Config;
    type Connection = Connection;

    fn describe() -> Description {
        Description::new("Webex", "Posts a message to a Webex space for each event.")
            .icon("message-circle")
            .host("webexapis.com")
            .host("{connection.baseUrl}")
            .setup_guide(include_str!("../setup.md"))
            .example_payload(
                json!({"roomId": "Y2lzY29…", "markdown": "**incident.created** Disk full"}),
            )
            .header(
                "authorization",
                "The bot's token as a bearer token; filled in by the gateway",
            )
            .link("https://developer.webex.com/messaging/docs/api/v1/messages/create-a-message")
    }

    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let connection = delivery.connection.as_ref().ok_or_else(|| {
            DeliveryError::permanent(
                "the subscription has no connection: choose one with a bot token",
            )
        })?;
        let client = Client::new(ctx, connection);
        let message = message(delivery)?;
        let earlier = delivery
            .event
            .external_id
            .as_deref()
            .filter(|id| !id.is_empty());
        match (delivery.config.follow_up, earlier) {
            (FollowUp::Edit, Some(earlier)) => {
                if client.edit(earlier, &message)? {
                    return Ok(Receipt::new(format!("edited {earlier}")).external_id(earlier));
                }
                ctx.warn("the first message is gone: a new one is posted");
                post(&client, message, None)
            }
            (FollowUp::Reply, Some(earlier)) => post(&client, message, Some(earlier)),
            _ => post(&client, message, None),
        }
    }

    fn test_connection(ctx: &Context, connection: &Connection) -> Result<String, String> {
        let me = Client::new(ctx, connection)
            .me()
            .map_err(|error| error.message)?;
        let name = me["displayName"].as_str().unwrap_or("a bot without a name");
        match me["type"].as_str() {
            Some("bot") | None => Ok(format!("Connected as {name}.")),
            Some(kind) => Ok(format!(
                "Connected as {name}, who is no bot but a {kind}: such a token expires."
            )),
        }
    }

    fn options(
        ctx: &Context,
        request: &OptionsRequest<Connection>,
    ) -> Result<Vec<SelectOption>, String> {
        if request.resolver != "rooms" {
            return Err(format!(
                "this provider has no options for {:?}",
                request.resolver
            ));
        }
        let connection = request
            .connection
            .as_ref()
            .ok_or("Choose a connection first.")?;
        let search = request.search.as_deref().unwrap_or("");
        let rooms = Client::new(ctx, connection)
            .rooms(search)
            .map_err(|error| error.message)?;
        if rooms.is_empty() && search.is_empty() {
            return Err("The bot is in no space yet: add it to one.".into());
        }
        Ok(rooms)
    }
}

fn post(
    client: &Client,
    mut message: Value,
    parent: Option<&str>,
) -> Result<Receipt, DeliveryError> {
    if let Some(parent) = parent {
        message["parentId"] = parent.into();
    }
    let id = client.post(&message)?;
    let summary = match parent {
        Some(parent) => format!("replied to {parent}"),
        None => format!("posted {id}"),
    };
    // A reply cannot be replied to: the thread's first message stays the reference.
    Ok(Receipt::new(summary).external_id(parent.unwrap_or(&id)))
}

fn message(delivery: &Delivery<Webex>) -> Result<Value, DeliveryError> {
    let config = &delivery.config;
    let templates = Templates::new(delivery)?;
    let card = match &config.card_template {
        Some(template) => Some(templates.json("config.cardTemplate", template)?),
        None => None,
    };
    if let Some(card) = &card
        && card["type"] != "AdaptiveCard"
    {
        return Err(DeliveryError::permanent(
            "config.cardTemplate: type: must be \"AdaptiveCard\"",
        ));
    }
    let markdown = match &config.markdown_template {
        Some(template) => templates
            .escape_with(escape)
            .text("config.markdownTemplate", template)?,
        None => {
            let event = &delivery.event;
            let payload = hookport_sdk::serde_json::to_string_pretty(&event.payload()?);
            let payload = payload.unwrap_or_default();
            let payload = cut(&payload, MESSAGE_BYTES_MAX / 2);
            format!(
                "**{}** at {}\n\n```\n{}\n```",
                event.event_type,
                event.timestamp,
                payload.replace("```", "'''")
            )
        }
    };
    if markdown.trim().is_empty() {
        return Err(DeliveryError::permanent(
            "config.markdownTemplate: the message is empty",
        ));
    }
    let mut message = json!({
        "roomId": config.room_id.trim(),
        "markdown": cut(&markdown, MESSAGE_BYTES_MAX),
    });
    if let Some(card) = card {
        message["attachments"] = json!([{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": card,
        }]);
    }
    Ok(message)
}

/// A value in Webex's Markdown: nothing of it is markup, and none of it mentions anyone.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\\' | '*' | '_' | '`' | '[' | ']' | '#' => {
                escaped.push('\\');
                escaped.push(c);
            }
            _ => escaped.push(c),
        }
    }
    escaped
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let end = text.len().min(bytes_max);
    let end = (0..=end)
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    &text[..end]
}

hookport_sdk::export!(Webex, id: "webex");

#[cfg(test)]
mod tests;

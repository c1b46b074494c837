//! Posts events to a Telegram chat as a bot: <https://core.telegram.org/bots/api>.
//!
//! The bot's token is part of every URL. It is put there by the gateway, so that neither this code
//! nor an error of it ever holds the token. Values of the payload are escaped for MarkdownV2 or
//! HTML; the template's own markup stands. Telegram has no idempotency key: an attempt whose
//! answer was lost posts the message twice.

mod api;

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Value, json};
use hookport_sdk::template::{Templates, escape};

use crate::api::Client;

/// A message's limit after entities parsing: <https://core.telegram.org/bots/api#sendmessage>.
const TEXT_MAX: usize = 4_096;
/// Buttons of one message.
const BUTTONS_MAX: usize = 10;

/// What a subscription sets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Telegram message")]
pub struct Config {
    /// The chat's identifier (`-1001234567890`), or the `@name` of a public channel.
    #[schemars(
        title = "Chat",
        length(min = 1),
        extend("x-options-resolver" = "chats", "x-searchable" = true)
    )]
    pub chat_id: String,
    /// The topic of a forum.
    #[serde(default)]
    #[schemars(title = "Topic")]
    pub message_thread_id: Option<i64>,
    /// Template of the message. Left out: the event's type, time and payload.
    #[serde(default)]
    #[schemars(title = "Text", extend("x-template" = true))]
    pub text_template: Option<String>,
    /// How the template marks text up. Values are escaped accordingly.
    #[serde(default)]
    #[schemars(title = "Markup")]
    pub parse_mode: ParseMode,
    /// Buttons below the message that open a page.
    #[serde(default)]
    #[schemars(title = "Buttons")]
    pub buttons: Vec<Button>,
    /// What later events of the same correlation key do.
    #[serde(default)]
    #[schemars(title = "Follow-up events")]
    pub follow_up: FollowUp,
    /// Without a sound.
    #[serde(default)]
    #[schemars(title = "Silent")]
    pub silent: bool,
    /// Shows previews of the links in the message.
    #[serde(default)]
    #[schemars(title = "Link previews")]
    pub link_preview: bool,
}

/// How a template marks text up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(crate = "hookport_sdk::serde")]
#[schemars(crate = "hookport_sdk::schemars")]
pub enum ParseMode {
    /// Telegram's MarkdownV2.
    #[default]
    MarkdownV2,
    /// Telegram's subset of HTML.
    #[serde(rename = "HTML")]
    Html,
    /// Not at all.
    #[serde(rename = "plain")]
    Plain,
}

/// What a follow-up event does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(crate = "hookport_sdk::serde", rename_all = "camelCase")]
#[schemars(crate = "hookport_sdk::schemars")]
pub enum FollowUp {
    /// Replies to the first message.
    #[default]
    Reply,
    /// Replaces the text of the first message.
    Edit,
    /// Posts a message of its own.
    Post,
}

/// A button that opens a page.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Button {
    /// Template of the label.
    #[schemars(title = "Label", length(min = 1), extend("x-template" = true))]
    pub text: String,
    /// Template of the address: https, http or tg.
    #[schemars(title = "URL", length(min = 1), extend("x-template" = true))]
    pub url: String,
}

/// How to reach Telegram.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Telegram bot")]
pub struct Connection {
    /// The token that @BotFather gave.
    #[schemars(title = "Bot token")]
    pub bot_token: Secret,
    /// Where the Bot API is, when that is not <https://api.telegram.org>: a server of your own.
    #[serde(default)]
    #[schemars(title = "Base URL")]
    pub base_url: Option<String>,
}

/// The provider.
pub struct Telegram;

impl Provider for Telegram {
    type Config = Config;
    type Connection = Connection;

    fn describe() -> Description {
        Description::new(
            "Telegram",
            "Posts a message to a Telegram chat for each event.",
        )
        .icon("send")
        .host("api.telegram.org")
        .host("{connection.baseUrl}")
        .setup_guide(include_str!("../setup.md"))
        .example_payload(json!({
            "chat_id": "-1001234567890",
            "text": "*incident\\.created*\nDisk full",
            "parse_mode": "MarkdownV2",
        }))
        .link("https://core.telegram.org/bots/api#sendmessage")
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
            .and_then(Earlier::parse);
        match (delivery.config.follow_up, earlier) {
            (FollowUp::Edit, Some(earlier)) => {
                if client.edit(&earlier.of(message.clone()))? {
                    let summary = format!(
                        "edited message {} of chat {}",
                        earlier.message, earlier.chat
                    );
                    return Ok(Receipt::new(summary).external_id(earlier.id()));
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
            .get_me()
            .map_err(|error| error.message)?;
        let name = me["username"].as_str().unwrap_or("a bot without a name");
        Ok(format!("Connected as @{name}."))
    }

    fn options(
        ctx: &Context,
        request: &OptionsRequest<Connection>,
    ) -> Result<Vec<SelectOption>, String> {
        if request.resolver != "chats" {
            return Err(format!(
                "this provider has no options for {:?}",
                request.resolver
            ));
        }
        let connection = request
            .connection
            .as_ref()
            .ok_or("Choose a connection first.")?;
        let chats = Client::new(ctx, connection)
            .recent_chats()
            .map_err(|error| error.message)?;
        let wanted = request.search.as_deref().unwrap_or("").to_lowercase();
        let found: Vec<_> = chats
            .into_iter()
            .filter(|(_, name)| name.to_lowercase().contains(&wanted))
            .map(|(id, name)| SelectOption::new(id, name))
            .collect();
        if found.is_empty() {
            return Err("Telegram tells a bot only of chats where something happened lately: write /start to the bot, or add it to the group, and look again; or enter the chat's id.".into());
        }
        Ok(found)
    }
}

/// The message that an earlier event posted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Earlier {
    chat: String,
    message: i64,
}

impl Earlier {
    /// From an external id, `chat/message`.
    fn parse(id: &str) -> Option<Self> {
        let (chat, message) = id.rsplit_once('/')?;
        Some(Self {
            chat: chat.to_owned(),
            message: message.parse().ok()?,
        })
    }

    fn id(&self) -> String {
        format!("{}/{}", self.chat, self.message)
    }

    /// The arguments that put a text in place of this message's.
    fn of(&self, mut message: Value) -> Value {
        for name in ["message_thread_id", "disable_notification"] {
            if let Some(members) = message.as_object_mut() {
                members.remove(name);
            }
        }
        message["chat_id"] = self.chat.as_str().into();
        message["message_id"] = self.message.into();
        message
    }
}

fn post(
    client: &Client,
    mut message: Value,
    reply: Option<Earlier>,
) -> Result<Receipt, DeliveryError> {
    if let Some(earlier) = &reply {
        message["reply_parameters"] = json!({
            "message_id": earlier.message,
            // Someone may have deleted it.
            "allow_sending_without_reply": true,
        });
    }
    let posted = client.send_message(&message)?;
    let sent = Earlier {
        chat: posted["chat"]["id"].to_string(),
        message: posted["message_id"].as_i64().unwrap_or_default(),
    };
    let summary = match &reply {
        Some(earlier) => format!(
            "replied to message {} of chat {}",
            earlier.message, sent.chat
        ),
        None => format!("posted message {} to chat {}", sent.message, sent.chat),
    };
    // Replies go to the first message, not to the reply before.
    Ok(Receipt::new(summary).external_id(reply.unwrap_or(sent).id()))
}

fn message(delivery: &Delivery<Telegram>) -> Result<Value, DeliveryError> {
    let config = &delivery.config;
    let templates = Templates::new(delivery)?;
    let escaped: fn(&str) -> String = match config.parse_mode {
        ParseMode::MarkdownV2 => escape::markdown_v2,
        ParseMode::Html => escape::html,
        ParseMode::Plain => str::to_owned,
    };
    let text = match &config.text_template {
        Some(template) => templates
            .escape_with(escaped)
            .text("config.textTemplate", template)?,
        None => {
            let event = &delivery.event;
            let payload =
                hookport_sdk::serde_json::to_string_pretty(&event.payload()?).unwrap_or_default();
            let payload: String = payload.chars().take(TEXT_MAX / 2).collect();
            let head = escaped(&format!("{} at {}", event.event_type, event.timestamp));
            match config.parse_mode {
                ParseMode::MarkdownV2 => format!("*{head}*\n```\n{}\n```", escaped(&payload)),
                ParseMode::Html => format!("<b>{head}</b>\n<pre>{}</pre>", escaped(&payload)),
                ParseMode::Plain => format!("{head}\n{payload}"),
            }
        }
    };
    if text.trim().is_empty() {
        return Err(DeliveryError::permanent(
            "config.textTemplate: the message is empty",
        ));
    }
    let text = if config.parse_mode == ParseMode::Plain {
        text.chars().take(TEXT_MAX).collect()
    } else if text.chars().count() > 4 * TEXT_MAX {
        // Cutting marked-up text would break it; Telegram counts without the markup.
        return Err(DeliveryError::permanent(format!(
            "config.textTemplate: the message is longer than {TEXT_MAX} characters: shorten it, for example with | truncate"
        )));
    } else {
        text
    };
    let mut message = json!({
        "chat_id": config.chat_id.trim(),
        "text": text,
        "link_preview_options": {"is_disabled": !config.link_preview},
    });
    match config.parse_mode {
        ParseMode::MarkdownV2 => message["parse_mode"] = "MarkdownV2".into(),
        ParseMode::Html => message["parse_mode"] = "HTML".into(),
        ParseMode::Plain => {}
    }
    if let Some(topic) = config.message_thread_id {
        message["message_thread_id"] = topic.into();
    }
    if config.silent {
        message["disable_notification"] = true.into();
    }
    let keyboard = keyboard(delivery)?;
    if !keyboard.is_empty() {
        message["reply_markup"] = json!({"inline_keyboard": keyboard});
    }
    Ok(message)
}

/// One button a row. A URL is looked at after rendering: what a payload brings could make it a
/// script, or nothing.
fn keyboard(delivery: &Delivery<Telegram>) -> Result<Vec<Value>, DeliveryError> {
    let buttons = &delivery.config.buttons;
    if buttons.len() > BUTTONS_MAX {
        return Err(DeliveryError::permanent(format!(
            "config.buttons: at most {BUTTONS_MAX}"
        )));
    }
    let templates = Templates::new(delivery)?;
    let mut rows = Vec::new();
    for (index, button) in buttons.iter().enumerate() {
        let place = |member: &str| format!("config.buttons[{index}].{member}");
        let text = templates.text(&place("text"), &button.text)?;
        let url = templates.text(&place("url"), &button.url)?;
        let url = url.trim();
        let scheme = url.split(':').next().unwrap_or("").to_ascii_lowercase();
        let usable = matches!(scheme.as_str(), "https" | "http" | "tg")
            && url.contains("://")
            && !url.contains(char::is_whitespace);
        if !usable {
            return Err(DeliveryError::permanent(format!(
                "{}: the rendered URL is none that a button can open: begin it with https://",
                place("url")
            )));
        }
        rows.push(json!([{"text": text, "url": url}]));
    }
    Ok(rows)
}

hookport_sdk::export!(Telegram, id: "telegram");

#[cfg(test)]
mod tests;

//! The message: text and blocks rendered from the event.

use hookport_sdk::serde_json::{Map, Value};
use hookport_sdk::template::Templates;
use hookport_sdk::{Delivery, DeliveryError};

use crate::{Config, Slack};

/// What is posted when the subscription has no template: the event's type and its payload, cut
/// to what Slack shows without folding.
const TEXT_DEFAULT: &str = "*{{ event.type }}*\n```{{ (payload | tojson(indent=2))[:3000] }}```";

/// Slack refuses a message with more blocks.
/// <https://docs.slack.dev/reference/block-kit/blocks>
const BLOCKS_MAX: usize = 50;

/// Slack cuts the text of a message after so many characters.
/// <https://docs.slack.dev/reference/methods/chat.postMessage>
const TEXT_CHARS_MAX: usize = 40_000;

/// A rendered message: `text`, `blocks` and how links are shown.
#[derive(Debug)]
pub struct Message {
    fields: Map<String, Value>,
}

impl Message {
    /// Renders the templates of the subscription.
    ///
    /// # Errors
    /// When a template is wrong, or what it gives is no message that Slack could take.
    pub fn render(delivery: &Delivery<Slack>) -> Result<Self, DeliveryError> {
        let config = &delivery.config;
        let templates = Templates::new(delivery)?.escape_with(escape);
        let blocks = match config
            .blocks_template
            .as_deref()
            .filter(|text| !text.trim().is_empty())
        {
            Some(template) => Some(blocks(templates.json("config.blocksTemplate", template)?)?),
            None => None,
        };
        let text = match (&config.text_template, &blocks) {
            (Some(template), _) => Some(templates.text("config.textTemplate", template)?),
            // Slack makes a notification's text from the blocks.
            (None, Some(_)) => None,
            (None, None) => Some(templates.text("the default text", TEXT_DEFAULT)?),
        };
        let mut fields = Map::new();
        if let Some(text) = text {
            if text.trim().is_empty() && blocks.is_none() {
                return Err(DeliveryError::permanent(
                    "config.textTemplate rendered an empty text, which Slack refuses",
                ));
            }
            if text.chars().nth(TEXT_CHARS_MAX).is_some() {
                return Err(DeliveryError::permanent(format!(
                    "config.textTemplate rendered more than {TEXT_CHARS_MAX} characters, which Slack refuses"
                )));
            }
            fields.insert("text".into(), text.into());
        }
        if let Some(blocks) = blocks {
            fields.insert("blocks".into(), Value::Array(blocks));
        }
        fields.insert("unfurl_links".into(), config.unfurl_links.into());
        fields.insert("unfurl_media".into(), config.unfurl_links.into());
        Ok(Self { fields })
    }

    /// The body for an incoming webhook.
    pub fn for_webhook(&self) -> String {
        Value::Object(self.fields.clone()).to_string()
    }

    /// The arguments of `chat.postMessage`; with `thread` as a reply.
    pub fn for_bot(&self, channel: &str, thread: Option<&str>, config: &Config) -> Value {
        let mut fields = self.fields.clone();
        let optional = [
            ("channel", Some(channel)),
            ("thread_ts", thread),
            ("username", config.username.as_deref()),
            ("icon_emoji", config.icon_emoji.as_deref()),
        ];
        for (name, value) in optional {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                fields.insert(name.into(), value.into());
            }
        }
        if thread.is_some() && config.reply_broadcast {
            fields.insert("reply_broadcast".into(), true.into());
        }
        Value::Object(fields)
    }

    /// The arguments of `chat.update`, which knows neither previews nor another sender. Blocks
    /// that are left out are removed where there is a text.
    /// <https://docs.slack.dev/reference/methods/chat.update>
    pub fn for_update(&self, channel: &str, ts: &str) -> Value {
        let mut fields = self.fields.clone();
        fields.remove("unfurl_links");
        fields.remove("unfurl_media");
        // An update without it links names and channels by itself, which a new message does not.
        fields.insert("parse".into(), "none".into());
        fields.insert("channel".into(), channel.into());
        fields.insert("ts".into(), ts.into());
        Value::Object(fields)
    }
}

/// The blocks of a rendered layout: an array, or an object with `blocks` as Block Kit Builder
/// gives it.
fn blocks(layout: Value) -> Result<Vec<Value>, DeliveryError> {
    let blocks = match layout {
        Value::Array(blocks) => Some(blocks),
        Value::Object(mut members) => match members.remove("blocks") {
            Some(Value::Array(blocks)) => Some(blocks),
            _ => None,
        },
        _ => None,
    };
    let blocks = blocks.ok_or_else(|| {
        DeliveryError::permanent(
            "config.blocksTemplate must give an array of blocks, or an object with an array \"blocks\"",
        )
    })?;
    match blocks.len() {
        1..=BLOCKS_MAX => Ok(blocks),
        count => Err(DeliveryError::permanent(format!(
            "config.blocksTemplate gave {count} blocks; Slack takes 1 to {BLOCKS_MAX}"
        ))),
    }
}

/// The three characters that Slack reads as control characters, as entities.
/// <https://docs.slack.dev/messaging/formatting-message-text#escaping>
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

//! Delivers events to Slack: through an incoming webhook, or as a bot through the Web API.
//!
//! Which of the two is the connection's choice. Both kinds of credential stay with the gateway.
//! What a payload brings is escaped before Slack reads it, so that a title cannot mention a whole
//! channel. Slack has no idempotency key for messages: an attempt that was cut off after Slack
//! took the message posts it twice.

mod incoming_webhook;
mod message;
mod web_api;

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::json;

use crate::message::Message;

/// What a subscription sets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Slack message")]
pub struct Config {
    /// Where a bot posts: a channel's id or name. Leave it empty with an incoming webhook, which
    /// has its own channel.
    #[serde(default)]
    #[schemars(
        title = "Channel",
        extend("x-options-resolver" = CHANNELS, "x-searchable" = true)
    )]
    pub channel: Option<String>,
    /// Template of the message text in Slack's mrkdwn. Beside blocks it is what notifications and
    /// screen readers show. Without either, the message names the event and shows its payload.
    #[serde(default)]
    #[schemars(title = "Text", extend("x-template" = true))]
    pub text_template: Option<String>,
    /// Template of the layout: Block Kit as JSON, an array of blocks or what Block Kit Builder
    /// gives. Each string in it is a template.
    #[serde(default)]
    #[schemars(title = "Blocks", extend("x-template" = true))]
    pub blocks_template: Option<String>,
    /// What becomes of later events of the same correlation key. All but "new" need a bot token.
    #[serde(default)]
    #[schemars(title = "Follow-up events")]
    pub follow_up: Option<FollowUp>,
    /// What was set before there was a choice of follow-ups: true stands for "thread".
    #[serde(default)]
    #[schemars(title = "Reply in thread", extend("x-hidden" = true))]
    pub reply_in_thread: bool,
    /// Shows a reply in the thread to the whole channel too.
    #[serde(default)]
    #[schemars(title = "Show replies in the channel")]
    pub reply_broadcast: bool,
    /// Lets Slack add previews of the links in the message.
    #[serde(default)]
    #[schemars(title = "Unfurl links")]
    pub unfurl_links: bool,
    /// The name that a bot posts under. Needs the scope `chat:write.customize`.
    #[serde(default)]
    #[schemars(title = "Name of the sender")]
    pub username: Option<String>,
    /// The emoji that a bot posts with, such as `:rotating_light:`. Needs the scope
    /// `chat:write.customize`.
    #[serde(default)]
    #[schemars(title = "Emoji of the sender")]
    pub icon_emoji: Option<String>,
}

impl Config {
    fn follow_up(&self) -> FollowUp {
        self.follow_up.unwrap_or(if self.reply_in_thread {
            FollowUp::Thread
        } else {
            FollowUp::New
        })
    }
}

/// What becomes of later events of the same correlation key.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(crate = "hookport_sdk::serde", rename_all = "lowercase")]
#[schemars(crate = "hookport_sdk::schemars", inline)]
pub enum FollowUp {
    /// A message of its own.
    New,
    /// A reply in the thread under the first message.
    Thread,
    /// The first message gets the new text and blocks.
    Update,
}

/// How to reach Slack.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Slack connection")]
pub enum Connection {
    /// An incoming webhook: posts to the one channel it was made for.
    #[schemars(title = "Incoming webhook")]
    IncomingWebhook {
        /// The webhook URL from the app's settings: `https://hooks.slack.com/services/…`.
        #[schemars(title = "Webhook URL")]
        url: Secret,
        /// Where the webhook URL is, when that is not hooks.slack.com (GovSlack, a proxy).
        #[serde(default)]
        #[schemars(title = "Base URL")]
        base_url: Option<String>,
    },
    /// A bot token: posts to any channel that the bot may post to.
    #[schemars(title = "Bot token")]
    Bot {
        /// The Bot User OAuth Token from the app's settings: `xoxb-…`.
        #[schemars(title = "Bot token")]
        token: Secret,
        /// Where the Web API is, when that is not <https://slack.com/api> (GovSlack, a proxy).
        #[serde(default)]
        #[schemars(title = "Base URL")]
        base_url: Option<String>,
    },
}

/// The resolver of [`Config::channel`].
const CHANNELS: &str = "channels";

/// The provider.
pub struct Slack;

impl Provider for Slack {
    type Config = Config;
    type Connection = Connection;

    fn describe() -> Description {
        Description::new(
            "Slack",
            "Posts a message to a Slack channel for each event.",
        )
        .icon("slack")
        .host("hooks.slack.com")
        .host("slack.com")
        .host("{connection.baseUrl}")
        .setup_guide(include_str!("../setup.md"))
        .example_payload(json!({
            "channel": "C0123456789",
            "text": "*incident.created*: Disk full",
            "blocks": [{
                "type": "section",
                "text": {"type": "mrkdwn", "text": "*incident.created*: Disk full"}
            }],
            "unfurl_links": false
        }))
        .header(
            "authorization",
            "The bot token as a bearer token; filled in by the gateway",
        )
        .header("content-type", "application/json; charset=utf-8")
        .link("https://docs.slack.dev/messaging/")
    }

    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let connection = delivery.connection.as_ref().ok_or_else(|| {
            DeliveryError::permanent(
                "the subscription has no connection: choose one with an incoming webhook or a bot token",
            )
        })?;
        let message = Message::render(delivery)?;
        match connection {
            Connection::IncomingWebhook { url, .. } => {
                if delivery.config.channel.is_some() {
                    ctx.warn("config.channel is ignored: an incoming webhook has its own channel");
                }
                if delivery.config.follow_up() != FollowUp::New {
                    ctx.warn("config.followUp is ignored: Slack does not say which message an incoming webhook made");
                }
                incoming_webhook::post(ctx, url, &message)
            }
            Connection::Bot { token, base_url } => {
                let api = web_api::Client::new(ctx, token, base_url.as_deref());
                post_as_bot(ctx, &api, delivery, &message)
            }
        }
    }

    fn test_connection(ctx: &Context, connection: &Connection) -> Result<String, String> {
        match connection {
            Connection::IncomingWebhook { url, .. } => incoming_webhook::test(ctx, url),
            Connection::Bot { token, base_url } => {
                web_api::Client::new(ctx, token, base_url.as_deref()).auth_test()
            }
        }
    }

    fn options(
        ctx: &Context,
        request: &OptionsRequest<Connection>,
    ) -> Result<Vec<SelectOption>, String> {
        if request.resolver != CHANNELS {
            return Err(format!(
                "this provider has no options for {:?}",
                request.resolver
            ));
        }
        match &request.connection {
            None => Err("Choose a connection first.".into()),
            Some(Connection::IncomingWebhook { .. }) => Err(
                "An incoming webhook posts to the channel it was made for: leave the channel empty."
                    .into(),
            ),
            Some(Connection::Bot { token, base_url }) => {
                web_api::Client::new(ctx, token, base_url.as_deref())
                    .channels(request.search.as_deref())
            }
        }
    }
}

fn post_as_bot(
    ctx: &Context,
    api: &web_api::Client,
    delivery: &Delivery<Slack>,
    message: &Message,
) -> Result<Receipt, DeliveryError> {
    let config = &delivery.config;
    let channel = config
        .channel
        .as_deref()
        .map(str::trim)
        .filter(|channel| !channel.is_empty())
        .ok_or_else(|| {
            DeliveryError::permanent("config.channel is empty: a bot needs a channel to post to")
        })?;
    let post = |thread: Option<&str>| api.post_message(&message.for_bot(channel, thread, config));
    let first = delivery.event.external_id.as_deref().map(First::parse);
    let gone = match (first, config.follow_up()) {
        (Some(first), FollowUp::Thread) => match post(Some(first.ts)) {
            Ok(posted) => {
                let summary = format!("replied in {} to {}", posted.channel, first.ts);
                // The thread's first message stays the reference: Slack wants replies to name the
                // parent, never another reply.
                return Ok(Receipt::new(summary).external_id(first.external_id()));
            }
            Err(error) if error.first_is_gone() => error,
            Err(error) => return Err(error.into()),
        },
        (Some(first), FollowUp::Update) => {
            // Slack takes a channel's name for a new message, its id alone for an old one.
            match api.update(&message.for_update(first.channel.unwrap_or(channel), first.ts)) {
                Ok(posted) => {
                    let summary = format!("updated {} in {}", first.ts, posted.channel);
                    return Ok(Receipt::new(summary).external_id(first.external_id()));
                }
                Err(error) if error.first_is_gone() => error,
                Err(error) => return Err(error.into()),
            }
        }
        (Some(_), FollowUp::New) | (None, _) => {
            let posted = post(None)?;
            return Ok(receipt_of(channel, &posted));
        }
    };
    ctx.warn(format!(
        "the first message cannot be followed up, so a new one is posted: {}",
        gone.message()
    ));
    Ok(receipt_of(channel, &post(None)?))
}

/// The receipt of a new message. Its id is its timestamp; where the channel was given by name,
/// the channel's id stands before it, as only that finds the message again.
fn receipt_of(channel: &str, posted: &web_api::Posted) -> Receipt {
    let first = First {
        channel: (posted.channel != channel).then_some(posted.channel.as_str()),
        ts: &posted.ts,
    };
    Receipt::new(format!("posted to {} at {}", posted.channel, posted.ts))
        .external_id(first.external_id())
}

/// The first message of a correlation key: `<ts>`, or `<channel id>/<ts>`.
#[derive(Clone, Copy)]
struct First<'a> {
    channel: Option<&'a str>,
    ts: &'a str,
}

impl<'a> First<'a> {
    fn parse(external_id: &'a str) -> Self {
        match external_id.split_once('/') {
            Some((channel, ts)) => Self {
                channel: Some(channel),
                ts,
            },
            None => Self {
                channel: None,
                ts: external_id,
            },
        }
    }

    fn external_id(&self) -> String {
        match self.channel {
            Some(channel) => format!("{channel}/{}", self.ts),
            None => self.ts.to_owned(),
        }
    }
}

hookport_sdk::export!(Slack, id: "slack");

#[cfg(test)]
mod tests;

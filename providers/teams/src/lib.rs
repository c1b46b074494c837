//! Posts events to Microsoft Teams as Adaptive Cards: through a webhook of the Workflows app, or
//! through Microsoft Graph with client credentials.
//!
//! A Workflows webhook says nothing of the message that it makes, so follow-up events cannot refer
//! to it; Graph gives the message's id, and follow-up events become replies. Neither has an
//! idempotency key: an attempt whose answer was lost posts twice.

mod card;
mod graph;
mod workflow;

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::json;

/// What a subscription sets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Teams message")]
pub struct Config {
    /// The team. Leave it empty with a Workflows webhook, which has its own channel.
    #[serde(default)]
    #[schemars(
        title = "Team",
        extend("x-options-resolver" = "teams", "x-searchable" = true)
    )]
    pub team_id: Option<String>,
    /// The channel.
    #[serde(default)]
    #[schemars(
        title = "Channel",
        extend("x-options-resolver" = "channels", "x-depends-on" = ["teamId"], "x-searchable" = true)
    )]
    pub channel_id: Option<String>,
    /// Template of the card's title. Left out: the event's type.
    #[serde(default)]
    #[schemars(title = "Title", extend("x-template" = true))]
    pub title_template: Option<String>,
    /// Template of the card's text, in the Markdown that cards know. Left out: the payload's
    /// members as a list of facts.
    #[serde(default)]
    #[schemars(title = "Text", extend("x-template" = true))]
    pub text_template: Option<String>,
    /// Template of the address that the card's button opens.
    #[serde(default)]
    #[schemars(title = "Link", extend("x-template" = true))]
    pub link_template: Option<String>,
    /// Template of a whole Adaptive Card as JSON, in place of title, text and link.
    #[serde(default)]
    #[schemars(title = "Card", extend("x-template" = true))]
    pub card_template: Option<String>,
    /// Posts later events of the same correlation key as replies to the first message. Needs
    /// Microsoft Graph.
    #[serde(default = "yes")]
    #[schemars(title = "Reply in thread")]
    pub reply_in_thread: bool,
}

fn yes() -> bool {
    true
}

/// How to reach Teams.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Teams connection")]
pub enum Connection {
    /// A webhook of the Workflows app: posts to the one channel it was made for.
    #[schemars(title = "Workflows webhook")]
    Workflow {
        /// The URL that the workflow shows.
        #[schemars(title = "Webhook URL")]
        url: Secret,
        /// Where the URL is, when that is neither logic.azure.com nor api.powerplatform.com.
        #[serde(default)]
        #[schemars(title = "Base URL")]
        base_url: Option<String>,
    },
    /// Microsoft Graph with the credentials of an app registration.
    #[schemars(title = "Microsoft Graph")]
    Graph {
        /// Directory (tenant) ID.
        #[schemars(title = "Tenant", length(min = 1))]
        tenant_id: String,
        /// Application (client) ID.
        #[schemars(title = "Client", length(min = 1))]
        client_id: String,
        /// A client secret of the app.
        #[schemars(title = "Client secret")]
        client_secret: Secret,
        /// Where Graph is, when that is not <https://graph.microsoft.com>: national clouds.
        #[serde(default)]
        #[schemars(title = "Base URL")]
        base_url: Option<String>,
        /// Where tokens come from, when that is not <https://login.microsoftonline.com>.
        #[serde(default)]
        #[schemars(title = "Login URL")]
        login_url: Option<String>,
    },
}

/// The provider.
pub struct Teams;

impl Provider for Teams {
    type Config = Config;
    type Connection = Connection;

    fn describe() -> Description {
        Description::new(
            "Microsoft Teams",
            "Posts an Adaptive Card to a Teams channel for each event.",
        )
        .icon("users")
        .host("*.logic.azure.com")
        .host("*.api.powerplatform.com")
        .host("graph.microsoft.com")
        .host("login.microsoftonline.com")
        .host("{connection.baseUrl}")
        .host("{connection.loginUrl}")
        .setup_guide(include_str!("../setup.md"))
        .example_payload(json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "content": {"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": "Disk full"}]},
            }],
        }))
        .header("authorization", "An access token, with Microsoft Graph; filled in by the gateway")
        .link("https://learn.microsoft.com/microsoftteams/platform/task-modules-and-cards/cards/cards-reference")
    }

    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let connection = delivery.connection.as_ref().ok_or_else(|| {
            DeliveryError::permanent(
                "the subscription has no connection: choose one with a Workflows webhook or Microsoft Graph",
            )
        })?;
        let card = card::render(delivery)?;
        match connection {
            Connection::Workflow { url, .. } => workflow::post(ctx, url, &card),
            Connection::Graph { .. } => {
                let client = graph::Client::new(ctx, connection)?;
                graph::deliver(&client, delivery, &card)
            }
        }
    }

    fn test_connection(ctx: &Context, connection: &Connection) -> Result<String, String> {
        match connection {
            Connection::Workflow { .. } => Ok(
                "A Workflows webhook can only be tried by posting: send a test event with a subscription.".into(),
            ),
            Connection::Graph { .. } => {
                let client = graph::Client::new(ctx, connection).map_err(|error| error.message)?;
                client.test().map_err(|error| error.message)
            }
        }
    }

    fn options(
        ctx: &Context,
        request: &OptionsRequest<Connection>,
    ) -> Result<Vec<SelectOption>, String> {
        let connection = request
            .connection
            .as_ref()
            .ok_or("Choose a connection first.")?;
        if matches!(connection, Connection::Workflow { .. }) {
            return Err("A Workflows webhook posts to the channel it was made for: leave team and channel empty.".into());
        }
        let client = graph::Client::new(ctx, connection).map_err(|error| error.message)?;
        let search = request.search.as_deref().unwrap_or("");
        let found = match request.resolver.as_str() {
            "teams" => client.teams(search),
            "channels" => {
                let team = request.context["teamId"]
                    .as_str()
                    .filter(|team| !team.is_empty());
                client.channels(team.ok_or("Choose a team first.")?, search)
            }
            other => return Err(format!("this provider has no options for {other:?}")),
        };
        found.map_err(|error| error.message)
    }
}

hookport_sdk::export!(Teams, id: "teams");

#[cfg(test)]
mod tests;

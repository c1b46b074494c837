//! Runs a script for each event: JavaScript by Boa, inside the sandbox like any other provider.
//!
//! The script defines `deliver(event, ctx)`. It has `fetch`, `console` and templates, and nothing
//! else of a world outside. It never holds a secret: `ctx.secrets.name` is a mark, unique for the
//! attempt, that the gateway replaces in a request on its way out. What a script may spend is the
//! sandbox's business.

mod engine;
mod secrets;

use std::collections::BTreeMap;
use std::time::Duration;

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Value, json};
use hookport_sdk::template::Templates;

use crate::engine::{Engine, Outcome};
use crate::secrets::Marks;

/// What a subscription sets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Script")]
pub struct Config {
    /// JavaScript that defines `deliver(event, ctx)`, which may be `async`.
    #[schemars(
        title = "Script",
        length(min = 1, max = 262_144),
        extend("x-language" = "javascript")
    )]
    pub code: String,
    /// The hosts that the script may reach, as URLs: `https://api.example.com`.
    #[serde(default)]
    #[schemars(title = "Hosts", length(max = 20))]
    pub hosts: Vec<String>,
    /// Secrets by name, for `ctx.secrets`.
    #[serde(default)]
    #[schemars(title = "Secrets")]
    pub secrets: BTreeMap<String, Secret>,
    /// Values by name, for `ctx.variables`.
    #[serde(default)]
    #[schemars(title = "Variables")]
    pub variables: BTreeMap<String, String>,
}

/// The provider.
pub struct Script;

impl Provider for Script {
    type Config = Config;
    type Connection = NoConnection;

    fn describe() -> Description {
        Description::new("Script", "Runs a script in JavaScript for each event.")
            .icon("code")
            .host("{config.hosts}")
            .setup_guide(include_str!("../setup.md"))
            .link("https://boajs.dev/")
    }

    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let (config, event) = (&delivery.config, &delivery.event);
        // Whoever made the payload cannot know the delivery's identifier.
        let marks = Marks::new(
            &config.secrets,
            &format!("{}.{}", event.delivery_id, event.attempt),
        );
        let input = json!({
            "event": {
                "id": event.id,
                "type": event.event_type,
                "payload": event.payload()?,
                "timestamp": event.timestamp,
                "correlationKey": event.correlation_key,
            },
            "ctx": {
                "deliveryId": event.delivery_id,
                "attempt": event.attempt,
                "externalId": event.external_id,
                "subscription": {"id": delivery.subscription.id, "name": delivery.subscription.name},
                "variables": config.variables,
                "secrets": marks.by_name(),
            },
        });
        let engine = Engine::take(Templates::new(delivery)?, marks.labels());
        let outcome = engine.run(&config.code, &input, |request| marks.send(ctx, request));
        for (level, text) in engine::take_log() {
            ctx.log(level, text);
        }
        receipt(outcome, &marks)
    }
}

fn receipt(outcome: Outcome, marks: &Marks) -> Result<Receipt, DeliveryError> {
    match outcome {
        Outcome::Returned(value) => {
            let text = |member: &str| value[member].as_str().map(|text| marks.hide(text));
            let receipt =
                Receipt::new(text("summary").unwrap_or_else(|| "the script returned".into()));
            Ok(match text("externalId") {
                Some(id) => receipt.external_id(id),
                None => receipt,
            })
        }
        Outcome::Thrown { message, details } => {
            let message = marks.hide(&message);
            Err(match details["retry"].as_str() {
                Some("never") => DeliveryError::permanent(message),
                Some("after") => {
                    let ms = details["afterMs"].as_f64().unwrap_or_default();
                    let day = Duration::from_secs(86_400);
                    let wait = Duration::try_from_secs_f64(ms / 1e3)
                        .unwrap_or(day)
                        .min(day);
                    DeliveryError::after(wait, message)
                }
                _ => DeliveryError::transient(message),
            })
        }
        Outcome::Wrong(message) => Err(DeliveryError::permanent(message)),
    }
}

/// A request of the script's as the engine hands it over.
#[derive(Debug, Deserialize)]
#[serde(crate = "hookport_sdk::serde", rename_all = "camelCase")]
pub(crate) struct FetchRequest {
    /// Tells the answers apart.
    pub id: u64,
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
    pub timeout_ms: Option<f64>,
}

/// The answer, as the prelude reads it.
pub(crate) fn answer(id: u64, result: Result<Response, HttpError>) -> Value {
    match result {
        Ok(response) => json!({
            "id": id,
            "status": response.status,
            "headers": response.headers,
            "body": response.text(),
        }),
        Err(error) => {
            let kind = match &error {
                HttpError::Denied(_) => "denied",
                HttpError::Invalid(_) => "invalid",
                HttpError::Limit(_) => "limit",
                HttpError::Network(_) => "network",
                HttpError::Timeout => "timeout",
            };
            json!({"id": id, "error": error.to_string(), "kind": kind})
        }
    }
}

hookport_sdk::export!(Script, id: "script");
hookport_sdk::preinitialize!(crate::engine::prepare);

#[cfg(test)]
mod tests;

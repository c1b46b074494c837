//! JSON in, JSON out, no network: what a call costs beside its requests.

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Value, json};

/// What a subscription sets.
#[derive(Deserialize, JsonSchema)]
#[serde(crate = "hookport_sdk::serde")]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Config {
    /// Stands before the summary.
    pub prefix: String,
}

/// The provider.
pub struct Echo;

impl Provider for Echo {
    type Config = Config;
    type Connection = NoConnection;

    fn describe() -> Description {
        Description::new("Echo", "Answers with what it got")
    }

    fn deliver(_: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let payload = delivery.event.payload()?;
        let title = payload
            .pointer("/incident/title")
            .and_then(Value::as_str)
            .unwrap_or("");
        let answer =
            json!({"id": delivery.event.id, "title": title, "attempt": delivery.event.attempt});
        Ok(Receipt::new(format!("{}{answer}", delivery.config.prefix)))
    }
}

hookport_sdk::export!(Echo, id: "echo");

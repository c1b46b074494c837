//! A source whose normaliser does what the webhook says: traps, never ends, returns nonsense.

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::json;
use hookport_sdk::{NormalizeError, NormalizedEvent, Source, Webhook};

/// What an admin sets.
#[derive(Deserialize, JsonSchema)]
#[serde(crate = "hookport_sdk::serde", deny_unknown_fields)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Config {
    /// Whether webhooks are taken as they should be, whatever they say.
    #[serde(default)]
    pub mended: bool,
}

/// The source.
pub struct Wrecker;

impl Source for Wrecker {
    type Config = Config;

    fn describe() -> Description {
        Description::new("Wrecker", "Does what a webhook says")
    }

    fn normalize(
        _: &Context,
        webhook: &Webhook<Self>,
    ) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let body = webhook.json()?;
        let good = NormalizedEvent::new("wreck.found".to_owned(), json!({"n": 1}));
        if webhook.config.mended {
            return Ok(vec![good]);
        }
        match body["do"].as_str().unwrap_or_default() {
            "trap" => std::process::abort(),
            "spin" => loop {
                std::hint::black_box(0);
            },
            "unknown-type" => Ok(vec![NormalizedEvent::new(
                "no such type!".to_owned(),
                json!({}),
            )]),
            "no-object" => Ok(vec![NormalizedEvent::new(
                "wreck.found".to_owned(),
                json!(7),
            )]),
            "bad-time" => Ok(vec![NormalizedEvent {
                occurred_at: Some("yesterday".to_owned()),
                ..good
            }]),
            "flood" => Ok(vec![good; 5_000]),
            _ => Ok(vec![good]),
        }
    }
}

hookport_sdk::export_source!(Wrecker, id: "wrecker");

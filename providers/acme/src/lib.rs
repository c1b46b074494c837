//! Webhooks of Acme: `x-acme-signature` is the hexadecimal HMAC-SHA256 of the raw body, the body
//! an envelope `{eventId, eventType, occurredAt, subject?, data}`.

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Value, json};
use hookport_sdk::{NormalizeError, NormalizedEvent, Source, Webhook};

/// What an admin sets.
#[derive(Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Config {
    /// Put before every event type: `acme.` makes `acme.pump.failed`.
    #[serde(default)]
    pub type_prefix: String,
}

/// The source.
pub struct Acme;

impl Source for Acme {
    type Config = Config;

    fn describe() -> Description {
        Description::new("Acme", "Webhooks of Acme's event stream")
            .icon("factory")
            .setup_guide(include_str!("../setup.md"))
            .example_payload(json!({"pump": 7, "pressure": 0.2}))
    }

    fn verification() -> Option<Value> {
        Some(json!({"scheme": "hmacSha256", "header": "x-acme-signature"}))
    }

    fn normalize(
        _: &Context,
        webhook: &Webhook<Self>,
    ) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let mut body = webhook.json()?;
        let external_id = required(&body, "eventId")?;
        let kind = required(&body, "eventType")?;
        let occurred_at = required(&body, "occurredAt")?;
        let data = body["data"].take();
        if !data.is_object() {
            return Err(NormalizeError::Invalid("data: must be an object".into()));
        }
        // What the event is about: its subject, or else the thing that the data describes.
        let correlation_key = text(&body["subject"]).or_else(|| text(&data["id"]));
        Ok(vec![NormalizedEvent {
            external_id: Some(external_id),
            occurred_at: Some(occurred_at),
            correlation_key,
            ..NormalizedEvent::new(format!("{}{kind}", webhook.config.type_prefix), data)
        }])
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn required(body: &Value, field: &str) -> Result<String, NormalizeError> {
    text(&body[field])
        .ok_or_else(|| NormalizeError::Invalid(format!("{field}: missing, or not a text")))
}

hookport_sdk::export_source!(Acme, id: "acme");

#[cfg(test)]
mod tests {
    use hookport_sdk::testing::{TestHost, TestWebhook};

    use super::*;

    fn normalize(body: Value) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let webhook = TestWebhook::new(body.to_string());
        TestHost::new().normalize::<Acme>(&json!({"typePrefix": "acme."}), &webhook)
    }

    fn sent() -> Value {
        json!({
            "eventId": "e-1",
            "eventType": "pump.failed",
            "occurredAt": "2024-01-01T00:00:00Z",
            "subject": "pump-7",
            "data": {"id": 7, "pressure": 0.2},
        })
    }

    #[test]
    fn an_envelope_becomes_an_event() {
        let event = NormalizedEvent {
            external_id: Some("e-1".into()),
            event_type: "acme.pump.failed".into(),
            occurred_at: Some("2024-01-01T00:00:00Z".into()),
            correlation_key: Some("pump-7".into()),
            system_ids: Vec::new(),
            payload: json!({"id": 7, "pressure": 0.2}),
        };
        assert_eq!(normalize(sent()), Ok(vec![event]));
    }

    #[test]
    fn without_a_subject_the_data_say_what_it_is_about() {
        let mut body = sent();
        body["subject"] = Value::Null;
        let events = normalize(body).expect("an event");
        assert_eq!(events[0].correlation_key.as_deref(), Some("7"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for field in ["eventId", "eventType", "occurredAt", "data"] {
            let mut body = sent();
            body[field] = Value::Null;
            let Err(NormalizeError::Invalid(reason)) = normalize(body) else {
                panic!("{field} is needed");
            };
            assert!(reason.starts_with(field), "{reason}");
        }
        let webhook = TestWebhook::new("<html>");
        let refused = TestHost::new().normalize::<Acme>(&json!({}), &webhook);
        assert!(
            matches!(refused, Err(NormalizeError::Invalid(_))),
            "{refused:?}"
        );
    }

    #[test]
    fn the_scheme_is_proposed() {
        let schema = TestHost::source_schema::<Acme>();
        assert_eq!(schema["x-verification"]["header"], "x-acme-signature");
    }
}

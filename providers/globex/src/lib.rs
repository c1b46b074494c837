//! Webhooks of Globex: `x-globex-token` is a shared token, the body `{id, type, timestamp,
//! resource}`, with the timestamp in milliseconds since the Unix epoch or as RFC 3339.

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Value, json};
use hookport_sdk::{NormalizeError, NormalizedEvent, Source, Webhook, rfc3339_of_unix_ms};

/// What an admin sets.
#[derive(Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Config {
    /// Put before every event type: `globex.` makes `globex.order.paid`.
    #[serde(default)]
    pub type_prefix: String,
}

/// The source.
pub struct Globex;

impl Source for Globex {
    type Config = Config;

    fn describe() -> Description {
        Description::new("Globex", "Webhooks of Globex's resources")
            .icon("globe")
            .setup_guide(include_str!("../setup.md"))
            .example_payload(json!({"id": "ord-12", "total": 99}))
    }

    fn verification() -> Option<Value> {
        Some(json!({"scheme": "sharedToken", "header": "x-globex-token"}))
    }

    fn normalize(
        _: &Context,
        webhook: &Webhook<Self>,
    ) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let mut body = webhook.json()?;
        let external_id = required(&body, "id")?;
        let kind = required(&body, "type")?;
        let occurred_at = match &body["timestamp"] {
            Value::Number(ms) => ms.as_i64().and_then(rfc3339_of_unix_ms),
            Value::String(text) => Some(text.clone()),
            _ => None,
        };
        let occurred_at = occurred_at.ok_or_else(|| {
            NormalizeError::Invalid(
                "timestamp: missing, or neither milliseconds nor RFC 3339".into(),
            )
        })?;
        let resource = body["resource"].take();
        if !resource.is_object() {
            return Err(NormalizeError::Invalid(
                "resource: must be an object".into(),
            ));
        }
        Ok(vec![NormalizedEvent {
            external_id: Some(external_id),
            occurred_at: Some(occurred_at),
            correlation_key: text(&resource["id"]),
            ..NormalizedEvent::new(format!("{}{kind}", webhook.config.type_prefix), resource)
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

hookport_sdk::export_source!(Globex, id: "globex");

#[cfg(test)]
mod tests {
    use hookport_sdk::testing::{TestHost, TestWebhook};

    use super::*;

    fn normalize(body: &Value) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let webhook = TestWebhook::new(body.to_string());
        TestHost::new().normalize::<Globex>(&json!({}), &webhook)
    }

    fn sent() -> Value {
        json!({
            "id": 991,
            "type": "order.paid",
            "timestamp": 1_704_067_200_123_i64,
            "resource": {"id": "ord-12", "total": 99},
        })
    }

    #[test]
    fn a_resource_becomes_an_event() {
        let event = NormalizedEvent {
            external_id: Some("991".into()),
            event_type: "order.paid".into(),
            occurred_at: Some("2024-01-01T00:00:00.123Z".into()),
            correlation_key: Some("ord-12".into()),
            system_ids: Vec::new(),
            payload: json!({"id": "ord-12", "total": 99}),
        };
        assert_eq!(normalize(&sent()), Ok(vec![event]));
    }

    #[test]
    fn what_is_missing_is_named() {
        for field in ["id", "type", "timestamp", "resource"] {
            let mut body = sent();
            body[field] = json!([]);
            let Err(NormalizeError::Invalid(reason)) = normalize(&body) else {
                panic!("{field} is needed");
            };
            assert!(reason.starts_with(field), "{reason}");
        }
    }
}

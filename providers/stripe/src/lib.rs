//! Webhooks of Stripe: <https://docs.stripe.com/api/events/object>.
//!
//! The event type is `stripe.` with Stripe's own (`stripe.invoice.paid`), the payload is the object
//! that the event is about, with the attributes that changed beside it.

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
    /// Put before every event type.
    #[serde(default = "prefix")]
    pub type_prefix: String,
    /// Take events of the test mode, too.
    #[serde(default)]
    pub test_mode: bool,
}

fn prefix() -> String {
    "stripe.".into()
}

/// The source.
pub struct Stripe;

impl Source for Stripe {
    type Config = Config;

    fn describe() -> Description {
        Description::new("Stripe", "Webhooks of a Stripe account")
            .icon("credit-card")
            .setup_guide(include_str!("../setup.md"))
            .link("https://docs.stripe.com/webhooks")
    }

    fn verification() -> Option<Value> {
        Some(json!({"scheme": "stripe"}))
    }

    fn normalize(
        _: &Context,
        webhook: &Webhook<Self>,
    ) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let mut body = webhook.json()?;
        if body["object"] != "event" {
            return Err(NormalizeError::Invalid(
                "object: expected an event; thin events of the API v2 are not supported".into(),
            ));
        }
        if body["livemode"] == false && !webhook.config.test_mode {
            return Err(NormalizeError::Ignored(
                "an event of the test mode: set testMode to take it".into(),
            ));
        }
        let required = |field: &str| {
            let text = body[field].as_str().map(str::to_owned);
            text.ok_or_else(|| NormalizeError::Invalid(format!("{field}: missing, or not a text")))
        };
        let (id, kind) = (required("id")?, required("type")?);
        let created = body["created"].as_i64().and_then(|s| s.checked_mul(1_000));
        let created = created.and_then(rfc3339_of_unix_ms).ok_or_else(|| {
            NormalizeError::Invalid("created: missing, or not seconds since the Unix epoch".into())
        })?;
        let mut data = body["data"].take();
        if !data["object"].is_object() {
            return Err(NormalizeError::Invalid(
                "data.object: must be an object".into(),
            ));
        }
        let correlation_key = data["object"]["id"].as_str().map(str::to_owned);
        let mut payload = json!({
            "object": data["object"].take(),
            "livemode": body["livemode"],
        });
        for (name, value) in [
            ("previousAttributes", data["previous_attributes"].take()),
            ("account", body["account"].take()),
        ] {
            if !value.is_null() {
                payload[name] = value;
            }
        }
        Ok(vec![NormalizedEvent {
            external_id: Some(id),
            occurred_at: Some(created),
            correlation_key,
            ..NormalizedEvent::new(format!("{}{kind}", webhook.config.type_prefix), payload)
        }])
    }
}

hookport_sdk::export_source!(Stripe, id: "stripe");

#[cfg(test)]
mod tests {
    use hookport_sdk::testing::{TestHost, TestWebhook};

    use super::*;

    fn normalize(config: Value, body: &Value) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        TestHost::new().normalize::<Stripe>(&config, &TestWebhook::new(body.to_string()))
    }

    /// After the example of the API reference.
    fn sent() -> Value {
        json!({
            "id": "evt_1NG8Du2eZvKYlo2CUI79vXWy",
            "object": "event",
            "api_version": "2019-02-19",
            "created": 1_686_089_970,
            "data": {
                "object": {"id": "si_NcLYdDxLHxlFo7", "object": "setup_intent", "status": "requires_confirmation"},
                "previous_attributes": {"status": "requires_payment_method"},
            },
            "livemode": true,
            "type": "setup_intent.created",
        })
    }

    #[test]
    fn an_event_keeps_its_object_and_what_changed() {
        let events = normalize(json!({}), &sent()).expect("an event");
        let [event] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!(
            event.external_id.as_deref(),
            Some("evt_1NG8Du2eZvKYlo2CUI79vXWy")
        );
        assert_eq!(event.event_type, "stripe.setup_intent.created");
        assert_eq!(
            event.occurred_at.as_deref(),
            Some("2023-06-06T22:19:30.000Z")
        );
        assert_eq!(event.correlation_key.as_deref(), Some("si_NcLYdDxLHxlFo7"));
        assert_eq!(event.payload["object"]["status"], "requires_confirmation");
        assert_eq!(
            event.payload["previousAttributes"]["status"],
            "requires_payment_method"
        );
        assert_eq!(event.payload.get("account"), None);
    }

    #[test]
    fn the_test_mode_is_taken_only_when_it_is_wanted() {
        let mut body = sent();
        body["livemode"] = false.into();
        assert!(matches!(
            normalize(json!({}), &body),
            Err(NormalizeError::Ignored(_))
        ));
        assert!(normalize(json!({"testMode": true}), &body).is_ok());
    }

    #[test]
    fn what_is_missing_is_named() {
        for field in ["object", "id", "type", "created", "data"] {
            let mut body = sent();
            body[field] = Value::Null;
            let Err(NormalizeError::Invalid(reason)) = normalize(json!({}), &body) else {
                panic!("{field} is needed");
            };
            assert!(reason.starts_with(field), "{reason}");
        }
    }
}

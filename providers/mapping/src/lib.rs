//! Webhooks of any sender that writes JSON, taken apart by JSON Pointers (RFC 6901) of the config.

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::Value;
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
    /// Where the list of events is, when one webhook holds several: "/events". An empty text: the
    /// body itself is the list. Left out: the body is one event.
    #[serde(default)]
    #[schemars(regex(pattern = r"^(/.*)?$"))]
    pub items: Option<String>,
    /// Where the event's type is ("/type"), or the type itself ("alert.fired"). What the sender
    /// writes is put into lower case, and characters that a type cannot have become "_".
    #[schemars(length(min = 1))]
    pub event_type: String,
    /// Put before the type: "acme.".
    #[serde(default)]
    pub type_prefix: String,
    /// Where the sender's identifier of the event is. Without one the hash of the body tells
    /// repetitions.
    #[serde(default)]
    #[schemars(regex(pattern = r"^/.*$"))]
    pub external_id: Option<String>,
    /// Where the time is: RFC 3339, or a number of seconds or milliseconds since the Unix epoch.
    #[serde(default)]
    #[schemars(regex(pattern = r"^/.*$"))]
    pub occurred_at: Option<String>,
    /// Where the subject is that ties events together.
    #[serde(default)]
    #[schemars(regex(pattern = r"^/.*$"))]
    pub correlation_key: Option<String>,
    /// Where the system is that the event concerns: a text or a list of them.
    #[serde(default)]
    #[schemars(regex(pattern = r"^/.*$"))]
    pub system_ids: Option<String>,
    /// Where the payload is: an object. Left out: the event as it is.
    #[serde(default)]
    #[schemars(regex(pattern = r"^/.*$"))]
    pub payload: Option<String>,
}

/// The source.
pub struct Mapping;

impl Source for Mapping {
    type Config = Config;

    fn describe() -> Description {
        Description::new(
            "JSON mapping",
            "Webhooks of any sender that writes JSON, mapped by JSON Pointers",
        )
        .icon("braces")
        .setup_guide(include_str!("../setup.md"))
    }

    fn normalize(
        _: &Context,
        webhook: &Webhook<Self>,
    ) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let config = &webhook.config;
        let body = webhook.json()?;
        let Some(items) = &config.items else {
            return Ok(vec![event(config, &body)?]);
        };
        let list = body
            .pointer(items)
            .and_then(Value::as_array)
            .ok_or_else(|| wrong("items", items, "there is no list"))?;
        if list.is_empty() {
            return Err(NormalizeError::Ignored(
                "the list of events is empty".into(),
            ));
        }
        list.iter().map(|item| event(config, item)).collect()
    }
}

fn wrong(field: &str, pointer: &str, problem: &str) -> NormalizeError {
    NormalizeError::Invalid(format!("{field}: {problem} at {pointer:?}"))
}

fn event(config: &Config, item: &Value) -> Result<NormalizedEvent, NormalizeError> {
    let kind = if config.event_type.starts_with('/') {
        found(item, "eventType", Some(&config.event_type))?.unwrap_or_default()
    } else {
        config.event_type.clone()
    };
    let payload = match &config.payload {
        Some(pointer) => item
            .pointer(pointer)
            .ok_or_else(|| wrong("payload", pointer, "there is nothing"))?,
        None => item,
    };
    if !payload.is_object() {
        let pointer = config.payload.as_deref().unwrap_or("");
        return Err(wrong("payload", pointer, "there is no object"));
    }
    Ok(NormalizedEvent {
        external_id: found(item, "externalId", config.external_id.as_deref())?,
        occurred_at: occurred_at(config, item)?,
        correlation_key: found(item, "correlationKey", config.correlation_key.as_deref())?,
        system_ids: system_ids(config, item),
        ..NormalizedEvent::new(
            type_name(&format!("{}{kind}", config.type_prefix)),
            payload.clone(),
        )
    })
}

/// A text or number that must be where the config says.
fn found(
    item: &Value,
    field: &str,
    pointer: Option<&str>,
) -> Result<Option<String>, NormalizeError> {
    let Some(pointer) = pointer else {
        return Ok(None);
    };
    match item.pointer(pointer) {
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        _ => Err(wrong(field, pointer, "there is no text or number")),
    }
}

fn occurred_at(config: &Config, item: &Value) -> Result<Option<String>, NormalizeError> {
    let Some(pointer) = &config.occurred_at else {
        return Ok(None);
    };
    let number = |number: f64| {
        // Seconds of the year 5138 are milliseconds of 1973: no sender means either.
        let ms = if number.abs() < 1e11 {
            number * 1e3
        } else {
            number
        };
        rfc3339_of_unix_ms(ms as i64)
    };
    let time = match item.pointer(pointer) {
        Some(Value::Number(value)) => value.as_f64().and_then(number),
        Some(Value::String(text)) => match text.parse::<f64>() {
            Ok(value) => number(value),
            Err(_) => Some(text.clone()),
        },
        _ => None,
    };
    time.map(Some)
        .ok_or_else(|| wrong("occurredAt", pointer, "there is no time"))
}

fn system_ids(config: &Config, item: &Value) -> Vec<String> {
    let found = config
        .system_ids
        .as_ref()
        .and_then(|pointer| item.pointer(pointer));
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    match found {
        Some(Value::Array(many)) => many.iter().filter_map(text).collect(),
        Some(one) => text(one).into_iter().collect(),
        None => Vec::new(),
    }
}

/// A name that an event type can have.
fn type_name(text: &str) -> String {
    text.chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || c == '.' || c == '-' => c,
            _ => '_',
        })
        .collect()
}

hookport_sdk::export_source!(Mapping, id: "mapping");

#[cfg(test)]
mod tests {
    use hookport_sdk::serde_json::json;
    use hookport_sdk::testing::{TestHost, TestWebhook};

    use super::*;

    fn normalize(config: Value, body: &Value) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        TestHost::new().normalize::<Mapping>(&config, &TestWebhook::new(body.to_string()))
    }

    #[test]
    fn one_event_is_taken_apart() {
        let config = json!({
            "eventType": "/alert/state", "typePrefix": "grafana.", "externalId": "/alert/id",
            "occurredAt": "/at", "correlationKey": "/alert/rule", "systemIds": "/hosts", "payload": "/alert",
        });
        let body = json!({
            "alert": {"id": 17, "state": "Alerting Now", "rule": "cpu"},
            "at": 1_704_067_200,
            "hosts": ["a", 2, null],
        });
        let event = NormalizedEvent {
            external_id: Some("17".into()),
            event_type: "grafana.alerting_now".into(),
            occurred_at: Some("2024-01-01T00:00:00.000Z".into()),
            correlation_key: Some("cpu".into()),
            system_ids: vec!["a".into(), "2".into()],
            payload: body["alert"].clone(),
        };
        assert_eq!(normalize(config, &body), Ok(vec![event]));
    }

    #[test]
    fn a_list_becomes_several_events() {
        let config =
            json!({"items": "/alerts", "eventType": "alert.fired", "externalId": "/fingerprint"});
        let body = json!({"alerts": [{"fingerprint": "a"}, {"fingerprint": "b"}]});
        let events = normalize(config.clone(), &body).expect("events");
        let ids: Vec<_> = events
            .iter()
            .filter_map(|event| event.external_id.as_deref())
            .collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(events[0].event_type, "alert.fired");
        let empty = normalize(config, &json!({"alerts": []}));
        assert!(
            matches!(empty, Err(NormalizeError::Ignored(_))),
            "{empty:?}"
        );
        let whole = normalize(json!({"items": "", "eventType": "a.b"}), &json!([{}, {}]));
        assert_eq!(whole.map(|events| events.len()), Ok(2));
    }

    #[test]
    fn what_is_not_where_the_config_says_is_named() {
        let config = json!({
            "eventType": "/type", "externalId": "/id", "occurredAt": "/at", "correlationKey": "/key", "payload": "/data",
        });
        let sent =
            json!({"type": "a.b", "id": 1, "at": "2024-01-01T00:00:00Z", "key": "k", "data": {}});
        assert!(normalize(config.clone(), &sent).is_ok());
        for (member, field) in [
            ("type", "eventType"),
            ("id", "externalId"),
            ("at", "occurredAt"),
            ("key", "correlationKey"),
            ("data", "payload"),
        ] {
            let mut body = sent.clone();
            body[member] = json!([]);
            let Err(NormalizeError::Invalid(reason)) = normalize(config.clone(), &body) else {
                panic!("{member} is needed");
            };
            assert!(reason.starts_with(field), "{reason}");
        }
    }

    #[test]
    fn times_are_seconds_milliseconds_or_text() {
        let check = |at: Value, expected: &str| {
            let config = json!({"eventType": "a.b", "occurredAt": "/at"});
            let events = normalize(config, &json!({"at": at})).expect("an event");
            assert_eq!(events[0].occurred_at.as_deref(), Some(expected));
        };
        check(json!(1_704_067_200), "2024-01-01T00:00:00.000Z");
        check(json!(1_704_067_200.5), "2024-01-01T00:00:00.500Z");
        check(json!(1_704_067_200_123_i64), "2024-01-01T00:00:00.123Z");
        check(json!("1704067200"), "2024-01-01T00:00:00.000Z");
        check(
            json!("2024-01-01T01:00:00+01:00"),
            "2024-01-01T01:00:00+01:00",
        );
    }
}

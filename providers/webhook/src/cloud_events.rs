//! CloudEvents 1.0 over HTTP: the event's attributes as headers (binary) or around the data
//! (structured).
//!
//! Attributes: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>. Headers and
//! media types: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>.

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::value::RawValue;
use hookport_sdk::{serde, serde_json};

use crate::Webhook;

/// The media type of the structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";

/// The attributes, under the names that the JSON format has.
#[derive(serde::Serialize)]
#[serde(crate = "hookport_sdk::serde")]
pub struct Attributes<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
}

#[derive(serde::Serialize)]
#[serde(crate = "hookport_sdk::serde")]
struct Structured<'a> {
    #[serde(flatten)]
    attributes: &'a Attributes<'a>,
    datacontenttype: &'static str,
    data: &'a RawValue,
}

impl<'a> Attributes<'a> {
    /// Of the event: its id and type, its time, and its correlation key as the subject. One event
    /// has the same `source` and `id` wherever it is sent, as the specification wants.
    pub fn of(delivery: &'a Delivery<Webhook>) -> Self {
        let event = &delivery.event;
        Self {
            specversion: "1.0",
            id: &event.id,
            source: &delivery.config.cloud_events_source,
            r#type: &event.event_type,
            time: &event.timestamp,
            subject: event.correlation_key.as_deref(),
        }
    }

    /// The headers of the binary mode.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("ce-specversion", self.specversion.to_owned()),
            ("ce-id", header_value(self.id)),
            ("ce-source", header_value(self.source)),
            ("ce-type", header_value(self.r#type)),
            ("ce-time", header_value(self.time)),
        ];
        headers.extend(
            self.subject
                .map(|subject| ("ce-subject", header_value(subject))),
        );
        headers
    }

    /// The body of the structured mode around `data`, which is JSON.
    pub fn around(&self, data: &str) -> Result<String, DeliveryError> {
        let written = serde_json::from_str(data).and_then(|data| {
            serde_json::to_string(&Structured {
                attributes: self,
                datacontenttype: "application/json",
                data,
            })
        });
        written.map_err(|error| DeliveryError::permanent(format!("the data is not JSON: {error}")))
    }
}

/// Section 3.1.3.2: what is not printable ASCII, and space, quote and percent, as `%` and hex.
fn header_value(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' | ..=b' ' | 0x7f.. => value.push_str(&format!("%{byte:02X}")),
            plain => value.push(char::from(plain)),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_those_of_the_specification() {
        // The specification's own example.
        assert_eq!(header_value("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(header_value("a\"%\r\n\u{7f}"), "a%22%25%0D%0A%7F");
        assert_eq!(header_value("/mycontext?x=1#~"), "/mycontext?x=1#~");
    }
}

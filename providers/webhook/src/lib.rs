//! Delivers events to any HTTP endpoint.
//!
//! Signatures follow Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//! Every answer but 2xx is a failure, also a 3xx: a webhook is not redirected silently. All
//! failures are tried again by the subscription's schedule, as receivers answer 4xx during
//! deployments too; 410 is final, and the gateway switches the subscription off.

mod cloud_events;
mod config;
#[cfg(test)]
mod tests;

use std::cell::LazyCell;
use std::time::Duration;

use hookport_sdk::base64::Engine as _;
use hookport_sdk::base64::engine::general_purpose::STANDARD;
use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Value, json, value::RawValue};
use hookport_sdk::template::Templates;
use hookport_sdk::{KeyEncoding, serde};

use crate::cloud_events::Attributes;
pub use config::{Auth, Config, ContentType, Envelope, FollowUp, Header, Method};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// Longest external id taken from an answer.
const EXTERNAL_ID_BYTES_MAX: usize = 512;

/// The provider.
pub struct Webhook;

impl Provider for Webhook {
    type Config = Config;
    type Connection = NoConnection;

    fn describe() -> Description {
        Description::new(
            "Webhook",
            "Sends the event to any HTTP endpoint, signed when asked",
        )
        .icon("webhook")
        .host("{config.url}")
        .setup_guide(include_str!("../setup.md"))
        .example_payload(json!({
            "id": "evt_01J9ZK4V7Q8R3M5N6P7S8T9V0W",
            "type": "incident.created",
            "timestamp": "2026-01-31T08:00:00.000Z",
            "data": {"incident": {"id": 7, "title": "Disk full"}}
        }))
        .header("webhook-id", "The delivery id: the same for every attempt")
        .header(
            "webhook-timestamp",
            "Seconds since the Unix epoch when it was sent",
        )
        .header(
            "webhook-signature",
            "v1 signature of Standard Webhooks, when a signing secret is set",
        )
        .header("idempotency-key", "The delivery id again")
        .header("hookport-event-id", "The event's id")
        .header("hookport-event-type", "The event's type")
        .header("hookport-attempt", "1 for the first attempt")
        .link("https://www.standardwebhooks.com/")
    }

    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let config = &delivery.config;
        let rendered = Rendered::new(delivery)?;
        let mut request = Request::new(rendered.method.as_str(), rendered.url).header(
            "user-agent",
            concat!("hookport-webhook/", env!("CARGO_PKG_VERSION")),
        );
        if rendered.body.is_some() {
            request = request.header("content-type", rendered.media_type);
        }
        let signed = rendered.body.as_deref().unwrap_or_default();
        for (name, value) in standard_headers(ctx, delivery, signed)? {
            request = request.header(name, value);
        }
        if config.envelope == Envelope::CloudEventsBinary {
            for (name, value) in Attributes::of(delivery).headers() {
                request = request.header(name, value);
            }
        }
        // A header of the admin's own takes the place of ours: two of a kind would confuse.
        request.headers.retain(|(name, _)| {
            !config
                .headers
                .iter()
                .any(|header| header.name.eq_ignore_ascii_case(name))
        });
        for header in &config.headers {
            request = request.header(header.name.as_str(), header.value.as_str());
        }
        request = match &config.auth {
            Auth::None {} => request,
            Auth::Bearer { token } => request.bearer(token),
            Auth::Basic { username, password } => request.basic(username.as_str(), password),
            Auth::Header { name, value } => request.header(name.as_str(), value),
        };
        if let Some(body) = rendered.body {
            request.body = hookport_sdk::Body::Bytes(body.into_bytes());
        }
        request.timeout = config.timeout_ms.map(|ms| Duration::from_millis(ms.into()));
        let response = ctx.send(request)?;
        conclude(ctx, config, &response)
    }
}

hookport_sdk::export!(Webhook, id: "webhook");

/// What this delivery sends, before credentials.
struct Rendered {
    method: Method,
    url: String,
    media_type: &'static str,
    /// `None`: the request has no body.
    body: Option<String>,
}

impl Rendered {
    fn new(delivery: &Delivery<Webhook>) -> Result<Self, DeliveryError> {
        let config = &delivery.config;
        let follow_up = config
            .follow_up
            .as_ref()
            .filter(|_| delivery.event.external_id.is_some());
        let method = follow_up
            .and_then(|own| own.method)
            .unwrap_or(config.method);
        let url = follow_up
            .and_then(|own| own.url.as_deref())
            .unwrap_or(&config.url);
        let template = follow_up
            .and_then(|own| own.body_template.as_deref())
            .or(config.body_template.as_deref());
        let url_is_template = url.contains("{{") || url.contains("{%");
        // Without a template the payload is passed on as it came, never parsed.
        let templates = LazyCell::new(|| Templates::new(delivery));
        let templates = || (*templates).as_ref().map_err(DeliveryError::clone);
        let url = if url_is_template {
            templates()?.url("url", url)?
        } else {
            url.to_owned()
        };
        let template = match template {
            None => None,
            Some(_) if method == Method::Get => {
                return Err(DeliveryError::permanent(
                    "bodyTemplate: a GET has no body; write values into the URL, or take POST",
                ));
            }
            Some(template) => Some(templates()?.json("bodyTemplate", template)?),
        };
        let (media_type, body) = match method {
            Method::Get => (JSON, None),
            Method::Delete if template.is_none() => (JSON, None),
            _ => {
                let (media_type, body) = body(delivery, template)?;
                (media_type, Some(body))
            }
        };
        if body.is_none() && config.envelope != Envelope::Standard {
            return Err(DeliveryError::permanent(
                "envelope: CloudEvents are sent with methods that have a body, such as POST",
            ));
        }
        Ok(Self {
            method,
            url,
            media_type,
            body,
        })
    }
}

/// The body and its media type; `own` is what the body template gave.
fn body(
    delivery: &Delivery<Webhook>,
    own: Option<Value>,
) -> Result<(&'static str, String), DeliveryError> {
    let config = &delivery.config;
    match (config.envelope, config.content_type, own) {
        (Envelope::Standard, ContentType::Json, None) => Ok((JSON, standard(delivery)?)),
        (Envelope::Standard, ContentType::Json, Some(own)) => Ok((JSON, own.to_string())),
        (Envelope::Standard, ContentType::Form, own) => {
            let fields = own.map_or_else(|| delivery.event.payload(), Ok)?;
            Ok((FORM, form(&fields)?))
        }
        (_, ContentType::Form, _) => Err(DeliveryError::permanent(
            "contentType: the data of CloudEvents is sent as JSON; take \"json\", or the standard envelope",
        )),
        (Envelope::CloudEventsBinary, _, own) => Ok((
            JSON,
            own.map_or_else(
                || delivery.event.payload_json.clone(),
                |own| own.to_string(),
            ),
        )),
        (Envelope::CloudEventsStructured, _, own) => {
            let own = own.map(|own| own.to_string());
            let data = own.as_deref().unwrap_or(&delivery.event.payload_json);
            Ok((
                cloud_events::STRUCTURED,
                Attributes::of(delivery).around(data)?,
            ))
        }
    }
}

#[derive(serde::Serialize)]
#[serde(crate = "hookport_sdk::serde")]
struct Standard<'a> {
    id: &'a str,
    r#type: &'a str,
    timestamp: &'a str,
    data: &'a RawValue,
}

fn standard(delivery: &Delivery<Webhook>) -> Result<String, DeliveryError> {
    let event = &delivery.event;
    let data: &RawValue = hookport_sdk::serde_json::from_str(&event.payload_json)
        .map_err(|error| DeliveryError::permanent(format!("the payload is not JSON: {error}")))?;
    hookport_sdk::serde_json::to_string(&Standard {
        id: &event.id,
        r#type: &event.event_type,
        timestamp: &event.timestamp,
        data,
    })
    .map_err(|error| DeliveryError::permanent(format!("the body cannot be written: {error}")))
}

/// `application/x-www-form-urlencoded` from the members of an object; nested values as JSON.
fn form(value: &Value) -> Result<String, DeliveryError> {
    let members = value.as_object().ok_or_else(|| {
        DeliveryError::permanent("bodyTemplate: a form needs a JSON object of fields")
    })?;
    let mut body = String::new();
    for (name, value) in members {
        if !body.is_empty() {
            body.push('&');
        }
        percent_encode(name, &mut body);
        body.push('=');
        match value {
            Value::String(text) => percent_encode(text, &mut body),
            other => percent_encode(&other.to_string(), &mut body),
        }
    }
    Ok(body)
}

/// The form encoding of the URL standard (<https://url.spec.whatwg.org/#urlencoded-serializing>).
fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
}

fn standard_headers(
    ctx: &Context,
    delivery: &Delivery<Webhook>,
    body: &str,
) -> Result<Vec<(&'static str, String)>, DeliveryError> {
    let event = &delivery.event;
    let timestamp = ctx.unix_seconds();
    let mut headers = vec![
        ("webhook-id", event.delivery_id.clone()),
        ("webhook-timestamp", timestamp.to_string()),
        ("idempotency-key", event.delivery_id.clone()),
        ("hookport-event-id", event.id.clone()),
        ("hookport-event-type", event.event_type.clone()),
        ("hookport-attempt", event.attempt.to_string()),
    ];
    if let Some(secret) = &delivery.config.signing_secret {
        let signed = format!("{}.{timestamp}.{body}", event.delivery_id);
        let mac = ctx
            .hmac_sha256(secret, signed.as_bytes(), KeyEncoding::Base64)
            .map_err(|error| DeliveryError::permanent(format!("signingSecret: {error}")))?;
        headers.push(("webhook-signature", format!("v1,{}", STANDARD.encode(mac))));
    }
    Ok(headers)
}

fn conclude(ctx: &Context, config: &Config, response: &Response) -> Result<Receipt, DeliveryError> {
    let status = response.status;
    if response.is_success() {
        let mut receipt = Receipt::new(format!("{status}"));
        receipt.external_id = config
            .external_id_pointer
            .as_deref()
            .and_then(|pointer| external_id(ctx, response, pointer));
        return Ok(receipt);
    }
    let message = format!("the receiver answered {status}{}", excerpt(response));
    let retried = match &config.retry_on_status {
        Some(statuses) => statuses.contains(&status),
        None => status != 410,
    };
    if !retried {
        return Err(DeliveryError::permanent(message));
    }
    match response.retry_after(ctx.now()) {
        Some(wait) => Err(DeliveryError::after(wait, message)),
        None => Err(DeliveryError::transient(message)),
    }
}

fn external_id(ctx: &Context, response: &Response, pointer: &str) -> Option<String> {
    let answer: Value = hookport_sdk::serde_json::from_slice(&response.body).ok()?;
    let id = match answer.pointer(pointer)? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => {
            ctx.warn(format!(
                "externalIdPointer: {pointer} is neither a string nor a number"
            ));
            return None;
        }
    };
    (id.len() <= EXTERNAL_ID_BYTES_MAX).then_some(id)
}

/// The beginning of what the receiver said, on one line.
fn excerpt(response: &Response) -> String {
    let text = response.text();
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return String::new();
    }
    format!(": {}", line.chars().take(200).collect::<String>())
}

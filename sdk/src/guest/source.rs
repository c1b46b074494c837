//! The WebAssembly side of sources and languages.

use crate::bindings as wit;
use crate::bindings::source as source_wit;
use crate::context::Context;
use crate::describe::Description;
use crate::guest::wasm::Gateway;
use crate::source::{Language, NormalizeError, Source, Webhook};

fn descriptor(
    id: &str,
    version: &str,
    description: Description,
    config_version: u32,
    config: &serde_json::Value,
) -> wit::Descriptor {
    wit::Descriptor {
        id: id.into(),
        name: description.name,
        description: description.description,
        icon: description.icon,
        version: version.into(),
        events: description.events,
        documentation: wit::Documentation {
            setup_guide: description.setup_guide,
            example_payload: description.example_payload.map(|value| value.to_string()),
            headers: description.headers,
            link: description.link,
        },
        config: wit::VersionedSchema {
            version: config_version,
            schema: config.to_string(),
        },
        connection: None,
        permissions: wit::Permissions {
            hosts: Vec::new(),
            expose_secrets: false,
        },
    }
}

pub fn describe<S: Source>(id: &str, version: &str) -> wit::Descriptor {
    let config = super::source_schema::<S>();
    descriptor(id, version, S::describe(), S::CONFIG_VERSION, &config)
}

fn webhook<S: Source>(webhook: source_wit::Webhook) -> Result<Webhook<S>, String> {
    Ok(Webhook {
        source: webhook.source,
        received_at: webhook.received_at,
        query: webhook.query,
        headers: webhook.headers,
        body: webhook.body,
        config: super::parse("config", &webhook.config)?,
    })
}

pub fn verify<S: Source>(received: source_wit::Webhook) -> Result<(), String> {
    S::verify(&Context::new(&Gateway), &webhook(received)?)
}

pub fn normalize<S: Source>(
    received: source_wit::Webhook,
) -> Result<Vec<source_wit::NormalizedEvent>, source_wit::NormalizeError> {
    let received = webhook::<S>(received).map_err(source_wit::NormalizeError::Invalid)?;
    match S::normalize(&Context::new(&Gateway), &received) {
        Ok(events) => Ok(events
            .into_iter()
            .map(|event| source_wit::NormalizedEvent {
                external_id: event.external_id,
                event_type: event.event_type,
                occurred_at: event.occurred_at,
                correlation_key: event.correlation_key,
                system_ids: event.system_ids,
                payload: event.payload.to_string(),
            })
            .collect()),
        Err(NormalizeError::Ignored(text)) => Err(source_wit::NormalizeError::Ignored(text)),
        Err(NormalizeError::Invalid(text)) => Err(source_wit::NormalizeError::Invalid(text)),
    }
}

pub fn describe_language<L: Language>(id: &str, version: &str) -> wit::Descriptor {
    descriptor(id, version, L::describe(), 1, &serde_json::json!({}))
}

pub fn run<L: Language>(
    program: &str,
    input: &str,
    outputs_max: u32,
) -> Result<Vec<String>, String> {
    let outputs_max = usize::try_from(outputs_max).unwrap_or(usize::MAX);
    L::run(program, input, outputs_max)
}

//! Filters and transforms: jq programs, run in the sandbox (`plugin::transform`).
//!
//! A program sees `{"event": {id, type, timestamp, correlationKey, systemIds}, "payload": …}`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::domain::clock::rfc3339;
use crate::domain::event::Event;
use crate::domain::provider::ProviderId;
use crate::plugin::CallFailure;
use crate::plugin::transform::Languages;

/// The language of every program.
const LANGUAGE: &str = "jq";
/// Longest program, in bytes.
pub const PROGRAM_BYTES_MAX: usize = 16 << 10;

/// Runs programs.
pub struct Programs {
    languages: Arc<dyn Languages>,
    language: ProviderId,
}

impl Programs {
    /// With the components that run languages.
    ///
    /// # Panics
    /// Never: the name of the language is a valid identifier.
    #[must_use]
    pub fn new(languages: Arc<dyn Languages>) -> Self {
        Self {
            languages,
            language: ProviderId::parse(LANGUAGE).expect("invariant: an identifier"),
        }
    }

    /// Whether the text is a program.
    ///
    /// # Errors
    /// What is wrong with it, where; or that no component can tell.
    pub async fn check(&self, program: &str) -> Result<(), String> {
        if program.trim().is_empty() || program.len() > PROGRAM_BYTES_MAX {
            return Err(format!("give 1 to {PROGRAM_BYTES_MAX} bytes"));
        }
        let report = self.languages.check(&self.language, program.into()).await;
        report.result.map_err(|failure| words(&failure))
    }

    /// Whether an event passes a condition: its first output is neither `false` nor `null`.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub async fn passes(&self, program: &Arc<str>, event: &Event) -> Result<bool, CallFailure> {
        let outputs = self.run(program, event).await?;
        let first = outputs.first().map(|output| output.trim());
        Ok(!matches!(first, None | Some("false" | "null")))
    }

    /// The payload that a program makes of an event: its first output, an object.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn transform(
        &self,
        program: &Arc<str>,
        event: &Event,
    ) -> Result<Arc<str>, CallFailure> {
        let outputs = self.run(program, event).await?;
        let object = |output: &String| {
            let value = serde_json::from_str::<Value>(output).ok()?;
            value.is_object().then(|| Arc::from(output.as_str()))
        };
        outputs
            .first()
            .and_then(object)
            .ok_or_else(|| CallFailure::Provider {
                message: "the output is no JSON object".to_owned(),
                retry: crate::domain::retry::RetryAdvice::Default,
            })
    }

    async fn run(&self, program: &Arc<str>, event: &Event) -> Result<Vec<String>, CallFailure> {
        let input = input(event);
        let run = self
            .languages
            .run(&self.language, program.clone(), input, 1);
        run.await.result
    }
}

fn input(event: &Event) -> Arc<str> {
    let about = json!({
        "id": event.id.to_string(),
        "type": event.event_type.as_str(),
        "timestamp": rfc3339(event.occurred_at),
        "correlationKey": event.correlation_key.as_deref(),
        "systemIds": event.system_ids,
    });
    format!(r#"{{"event":{about},"payload":{}}}"#, event.payload).into()
}

fn words(failure: &CallFailure) -> String {
    match failure {
        CallFailure::Unavailable(reason) => {
            format!("no component runs jq ({reason}): put jq.wasm into the providers directory")
        }
        other => other.to_string(),
    }
}

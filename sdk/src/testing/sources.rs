//! Sources in tests.

use serde_json::Value;

use super::TestHost;
use crate::context::Context;
use crate::guest;
use crate::source::{NormalizeError, NormalizedEvent, Source, Webhook};

/// A webhook to hand to a source in a test.
#[derive(Clone, Debug)]
pub struct TestWebhook {
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl TestWebhook {
    /// With that body, and no header.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self {
            query: String::new(),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// One header more.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// With a query, without `?`.
    pub fn query(mut self, query: &str) -> Self {
        query.clone_into(&mut self.query);
        self
    }

    fn of<S: Source>(&self, config: &Value) -> Result<Webhook<S>, String> {
        Ok(Webhook {
            source: "test".into(),
            received_at: "2024-01-01T00:00:00.000Z".into(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            config: guest::parse("config", &config.to_string())?,
        })
    }
}

impl TestHost {
    /// The events of a webhook.
    ///
    /// # Errors
    /// What the source returned, or that the config does not fit its type.
    pub fn normalize<S: Source>(
        &self,
        config: &Value,
        webhook: &TestWebhook,
    ) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let webhook = webhook.of::<S>(config).map_err(NormalizeError::Invalid)?;
        S::normalize(&Context::new(self), &webhook)
    }

    /// Has the source verify a webhook.
    ///
    /// # Errors
    /// What the source returned, or that the config does not fit its type.
    pub fn verify<S: Source>(&self, config: &Value, webhook: &TestWebhook) -> Result<(), String> {
        S::verify(&Context::new(self), &webhook.of::<S>(config)?)
    }

    /// The schema that the gateway would show for a source's config.
    pub fn source_schema<S: Source>() -> Value {
        guest::source_schema::<S>()
    }
}

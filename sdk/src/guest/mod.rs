//! Between the generated exports and the [`crate::Provider`] trait.

#[cfg(target_family = "wasm")]
pub mod wasm;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The JSON Schema (draft 2020-12) of a config or connection; `None` for `NoConnection`.
pub fn schema_of<T: JsonSchema>() -> Option<Value> {
    let generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let schema = generator.into_root_schema_for::<T>().to_value();
    let accepts_nothing = schema == Value::Bool(false) || schema["not"].is_object();
    (!accepts_nothing).then_some(schema)
}

/// A document that the gateway handed over. It has been validated against the schema, so a
/// failure means that type and schema disagree.
pub fn parse<T: DeserializeOwned>(kind: &str, json: &str) -> Result<T, String> {
    serde_json::from_str(json)
        .map_err(|error| format!("the {kind} does not fit this provider: {error}"))
}

//! Between the generated exports and the [`crate::Provider`] trait.

#[cfg(target_family = "wasm")]
pub mod source;
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

/// The schema of a source's config, with the scheme that its sender uses as `x-verification`.
pub fn source_schema<S: crate::Source>() -> Value {
    let mut schema = schema_of::<S::Config>().unwrap_or_else(|| serde_json::json!({}));
    if let (Some(scheme), Some(root)) = (S::verification(), schema.as_object_mut()) {
        root.insert("x-verification".to_owned(), scheme);
    }
    schema
}

/// A document that the gateway handed over. It has been validated against the schema, so a
/// failure means that type and schema disagree.
pub fn parse<T: DeserializeOwned>(kind: &str, json: &str) -> Result<T, String> {
    serde_json::from_str(json)
        .map_err(|error| format!("the {kind} does not fit this provider: {error}"))
}

/// Refuses at compile time an identifier that no gateway would take.
pub const fn check_id(id: &str) {
    let bytes = id.as_bytes();
    assert!(
        !bytes.is_empty() && bytes.len() <= 64 && bytes[0].is_ascii_lowercase(),
        "a provider's id starts with a lower-case letter and has at most 64 characters"
    );
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        assert!(
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-',
            "a provider's id has lower-case letters, digits and - only"
        );
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{NoConnection, Secret};

    #[derive(serde::Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Config {
        #[schemars(extend("x-hidden" = true))]
        internal: u8,
        token: Option<Secret>,
    }

    #[test]
    fn schemas_carry_what_the_gateway_looks_for() {
        let schema = schema_of::<Config>().expect("a schema");
        assert_eq!(
            schema["$schema"],
            "https://json-schema.org/draft/2020-12/schema"
        );
        assert_eq!(schema["properties"]["internal"]["x-hidden"], true);
        assert_eq!(schema["required"], json!(["internal"]));
        let token = &schema["properties"]["token"];
        assert!(token.to_string().contains("\"x-secret\":true"), "{token}");
        assert_eq!(schema_of::<NoConnection>(), None);
    }

    #[test]
    fn a_document_that_does_not_fit_is_named() {
        let error = parse::<Config>("config", r#"{"internal": "x"}"#)
            .map(|_| ())
            .expect_err("misfit");
        assert!(error.contains("the config does not fit"), "{error}");
        let error = parse::<NoConnection>("connection", "{}").expect_err("none");
        assert!(error.contains("no connection"), "{error}");
    }

    #[test]
    fn a_secret_in_clear_is_no_secret() {
        assert!(parse::<Secret>("config", "\"hunter2\"").is_err());
        let secret: Secret = parse("config", r#"{"$secret": "config#/token"}"#).expect("a handle");
        assert_eq!(format!("{secret:?}"), "Secret(config#/token)");
    }

    #[test]
    fn identifiers() {
        for id in ["webhook", "a", "my-provider-2"] {
            check_id(id);
        }
        for id in ["", "2a", "-a", "A", "a_b", "ä", &"a".repeat(65)] {
            let id = id.to_owned();
            assert!(
                std::panic::catch_unwind(|| check_id(&id)).is_err(),
                "{id} was taken"
            );
        }
    }
}

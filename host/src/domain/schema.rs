//! JSON Schema (draft 2020-12): compiling and validating, with a stranger's schemas in mind.
//!
//! References to anything outside the schema are refused, and patterns run on an engine without
//! backtracking, so that neither a schema nor a document can make the gateway fetch or spin.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

/// The schema cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a usable JSON Schema: {0}")]
pub struct SchemaError(String);

/// One thing wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON Pointer (RFC 6901) of the place.
    pub pointer: String,
    /// What is wrong, without the value itself: it may be a secret.
    pub message: String,
}

/// Violations reported at once.
const VIOLATIONS_MAX: usize = 20;

/// Compiles a schema.
///
/// # Errors
/// When it is no valid schema, refers to something outside itself, or has a pattern that needs
/// backtracking.
pub fn compile(schema: &Value) -> Result<Validator, SchemaError> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| SchemaError(error.to_string()))
}

/// What is wrong with `document`, at most twenty things.
#[must_use]
pub fn violations(validator: &Validator, document: &Value) -> Vec<Violation> {
    validator
        .iter_errors(document)
        .take(VIOLATIONS_MAX)
        .map(|error| Violation {
            pointer: error.instance_path().to_string(),
            message: error.masked().to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_violation_names_the_place_and_not_the_value() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"token": {"type": "string", "maxLength": 3}}}}});
        let validator = compile(&schema).expect("valid");
        let found = violations(&validator, &json!({"a": {"token": "hunter22"}}));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pointer, "/a/token");
        assert!(
            !found[0].message.contains("hunter22"),
            "{}",
            found[0].message
        );
    }

    #[test]
    fn outside_references_and_broken_schemas_are_refused() {
        for schema in [
            json!({"$ref": "http://127.0.0.1:1/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"type": "objet"}),
            json!({"pattern": "(a"}),
        ] {
            assert!(compile(&schema).is_err(), "{schema}");
        }
    }
}

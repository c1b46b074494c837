//! Documents with secret leaves: sealing what comes in, hiding what goes out, opening for a
//! guest.
//!
//! Which leaves are secret is what the provider's schema marks with `x-secret`, in any branch.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{Vault, VaultError, key_of};
use crate::domain::marks::{is_marked, segments};
use crate::domain::subscription::SealedDocument;
use crate::plugin::{DocumentKind, GuestDocument, SecretSet};

const SEALED: &str = "$sealed";
const SECRET: &str = "$secret";
/// Deeper schemas and documents are not followed; the API refuses such documents anyway.
const DEPTH_MAX: usize = 64;

/// A document as the API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Redacted {
    /// Secret leaves are empty strings.
    pub json: Value,
    /// JSON Pointers of the secrets on record.
    pub secrets_set: Vec<String>,
}

/// Checks that every secret that a provider's schema marks can be sealed: it is a string, and it
/// stands where documents are searched for secrets.
///
/// # Errors
/// With the place in the schema and the remedy.
pub fn check_schema(schema: &Value) -> Result<(), String> {
    check_node(schema, "#", 0)
}

fn check_node(schema: &Value, place: &str, depth: usize) -> Result<(), String> {
    const SEARCHED: [&str; 5] = [
        "additionalProperties",
        "items",
        "not",
        "contains",
        "propertyNames",
    ];
    if depth > DEPTH_MAX {
        return Err(format!("{place}: nested deeper than {DEPTH_MAX} levels"));
    }
    let Some(keywords) = schema.as_object() else {
        return Ok(());
    };
    if schema.get("x-secret") == Some(&Value::Bool(true)) {
        let kinds = match schema.get("type") {
            Some(Value::Array(kinds)) => kinds.clone(),
            Some(kind) => vec![kind.clone()],
            None => Vec::new(),
        };
        let text_only = kinds.iter().all(|kind| kind == "string" || kind == "null");
        if kinds.is_empty() || !text_only {
            return Err(format!(
                "{place}: x-secret stands on a string: write \"type\": \"string\""
            ));
        }
    }
    for (keyword, below) in keywords {
        let place = format!("{place}/{keyword}");
        match keyword.as_str() {
            "properties" | "$defs" | "definitions" => {
                for (name, member) in below.as_object().into_iter().flatten() {
                    check_node(member, &format!("{place}/{name}"), depth + 1)?;
                }
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                for (index, branch) in below.as_array().into_iter().flatten().enumerate() {
                    check_node(branch, &format!("{place}/{index}"), depth + 1)?;
                }
            }
            name if SEARCHED.contains(&name) => check_node(below, &place, depth + 1)?,
            "default" | "examples" | "const" | "enum" => {}
            _ if mentions_secret(below, 0) => {
                return Err(format!(
                    "{place}: a secret cannot stand here; use properties, items or the branches of oneOf"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn mentions_secret(value: &Value, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return true;
    }
    match value {
        Value::Object(members) => {
            members.contains_key("x-secret")
                || members
                    .values()
                    .any(|member| mentions_secret(member, depth + 1))
        }
        Value::Array(items) => items.iter().any(|item| mentions_secret(item, depth + 1)),
        _ => false,
    }
}

fn escape(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

/// Visits every leaf below `value` with its pointer; a leaf is what `visit` takes, or what is
/// neither object nor array.
fn walk<E>(
    value: &mut Value,
    pointer: &mut String,
    visit: &mut impl FnMut(&str, &mut Value) -> Result<bool, E>,
) -> Result<(), E> {
    if visit(pointer, value)? {
        return Ok(());
    }
    let length = pointer.len();
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                pointer.push('/');
                pointer.push_str(&escape(name));
                walk(member, pointer, visit)?;
                pointer.truncate(length);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                pointer.push('/');
                pointer.push_str(&index.to_string());
                walk(item, pointer, visit)?;
                pointer.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The one member of an object of one member.
fn marker<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    let object = value.as_object()?;
    (object.len() == 1)
        .then(|| object.get(name)?.as_str())
        .flatten()
}

impl Vault {
    /// What the API sent, merged with the secrets on record and ready to be validated: secrets
    /// in plain text. An empty string where a secret belongs keeps the one on record.
    ///
    /// # Errors
    /// `Smuggled` when the input holds what only the gateway writes; what cannot be opened.
    pub fn merge(
        &self,
        row: &str,
        schema: &Value,
        mut incoming: Value,
        previous: Option<&SealedDocument>,
    ) -> Result<Value, VaultError> {
        walk(&mut incoming, &mut String::new(), &mut |pointer, value| {
            if marker(value, SEALED).is_some() || marker(value, SECRET).is_some() {
                return Err(VaultError::Smuggled(pointer.to_owned()));
            }
            if value.as_str() == Some("")
                && secret_at(schema, pointer)
                && let Some(sealed) = previous
                    .and_then(|previous| previous.json.pointer(pointer))
                    .and_then(|kept| marker(kept, SEALED))
            {
                *value = Value::from(self.open(row, pointer, sealed)?.as_str());
            }
            Ok(false)
        })?;
        Ok(incoming)
    }

    /// Seals every secret leaf of a merged and validated document. Empty secrets are left out.
    #[must_use]
    pub fn seal_document(
        &self,
        row: &str,
        schema: &Value,
        version: u32,
        mut plain: Value,
    ) -> SealedDocument {
        let _ = walk::<VaultError>(&mut plain, &mut String::new(), &mut |pointer, value| {
            if let Some(text) = value.as_str()
                && secret_at(schema, pointer)
            {
                *value = json!({ SEALED: self.seal(row, pointer, text) });
                return Ok(true);
            }
            Ok(false)
        });
        SealedDocument {
            version,
            json: plain,
        }
    }

    /// Opens a document for a guest: secrets become handles.
    ///
    /// # Errors
    /// `UnknownKey`, `Tampered`.
    pub fn open_for_guest(
        &self,
        row: &str,
        kind: DocumentKind,
        document: &SealedDocument,
    ) -> Result<GuestDocument, VaultError> {
        let kind = prefix(kind);
        let mut secrets: HashMap<String, Zeroizing<String>> = HashMap::new();
        let mut fields = HashMap::new();
        let mut json = document.json.clone();
        walk(&mut json, &mut String::new(), &mut |pointer, value| {
            if let Some(sealed) = marker(value, SEALED) {
                let handle = format!("{kind}#{pointer}");
                secrets.insert(handle.clone(), self.open(row, pointer, sealed)?);
                *value = json!({ SECRET: handle });
                return Ok(true);
            }
            if let Some(text) = value.as_str() {
                fields.insert(segments(pointer).join("."), text.to_owned());
            }
            Ok(false)
        })?;
        Ok(GuestDocument {
            json: json.to_string().into(),
            version: document.version,
            secrets: Arc::new(SecretSet::new(secrets)),
            fields: Arc::new(fields),
        })
    }
}

/// Rotation of the master key.
impl Vault {
    /// The document with its secrets sealed under the current key; `None` where they are already.
    ///
    /// # Errors
    /// `UnknownKey`, `Tampered`.
    pub fn reseal(
        &self,
        row: &str,
        document: &SealedDocument,
    ) -> Result<Option<SealedDocument>, VaultError> {
        let current = self.keys().seals;
        let (mut json, mut is_changed) = (document.json.clone(), false);
        walk(&mut json, &mut String::new(), &mut |pointer, value| {
            let Some(sealed) = marker(value, SEALED) else {
                return Ok(false);
            };
            if key_of(sealed) != Some(current.as_str()) {
                let plain = self.open(row, pointer, sealed)?;
                *value = json!({ SEALED: self.seal(row, pointer, &plain) });
                is_changed = true;
            }
            Ok(true)
        })?;
        Ok(is_changed.then_some(SealedDocument {
            version: document.version,
            json,
        }))
    }
}

/// The names of the keys that a document's secrets are under.
#[must_use]
pub fn keys_of(document: &SealedDocument) -> BTreeSet<String> {
    let (mut json, mut keys) = (document.json.clone(), BTreeSet::new());
    let _ = walk::<VaultError>(&mut json, &mut String::new(), &mut |_, value| {
        let Some(sealed) = marker(value, SEALED) else {
            return Ok(false);
        };
        keys.insert(key_of(sealed).unwrap_or_default().to_owned());
        Ok(true)
    });
    keys
}

/// Secrets of a document that a component migrated.
impl Vault {
    /// What `migrate-config` made of `before`, with the secrets in plain text where their handles
    /// stand, to be validated and sealed.
    ///
    /// # Errors
    /// With the place: a handle that `before` does not have, or that stands where `schema` marks
    /// no secret; something that only the gateway writes; a secret that cannot be opened.
    pub fn resolve_handles(
        &self,
        row: &str,
        kind: DocumentKind,
        schema: &Value,
        before: &SealedDocument,
        mut migrated: Value,
    ) -> Result<Value, String> {
        let prefix = format!("{}#", prefix(kind));
        walk(&mut migrated, &mut String::new(), &mut |pointer, value| {
            if marker(value, SEALED).is_some() {
                return Err(format!("{pointer}: only the gateway writes {SEALED}"));
            }
            let Some(handle) = marker(value, SECRET) else {
                return Ok(false);
            };
            if !secret_at(schema, pointer) {
                return Err(format!(
                    "{pointer}: a secret was put where the new schema has no x-secret"
                ));
            }
            let old = handle.strip_prefix(&prefix);
            let sealed =
                old.and_then(|old| Some((old, marker(before.json.pointer(old)?, SEALED)?)));
            let (old, sealed) =
                sealed.ok_or_else(|| format!("{pointer}: there is no secret {handle:?}"))?;
            let plain = self.open(row, old, sealed);
            *value = Value::from(plain.map_err(|error| error.to_string())?.as_str());
            Ok(true)
        })?;
        Ok(migrated)
    }
}

fn prefix(kind: DocumentKind) -> &'static str {
    match kind {
        DocumentKind::Config => "config",
        DocumentKind::Connection => "connection",
    }
}

fn secret_at(schema: &Value, pointer: &str) -> bool {
    is_marked(schema, "x-secret", pointer)
}

/// A document for the API: secrets hidden, their places named.
#[must_use]
pub fn redact(document: &SealedDocument) -> Redacted {
    let mut json = document.json.clone();
    let mut secrets_set = Vec::new();
    let _ = walk::<VaultError>(&mut json, &mut String::new(), &mut |pointer, value| {
        if marker(value, SEALED).is_some() {
            secrets_set.push(pointer.to_owned());
            *value = Value::from("");
            return Ok(true);
        }
        Ok(false)
    });
    Redacted { json, secrets_set }
}

/// A form's values without its secrets, for `get-connection-options`.
#[must_use]
pub fn without_secrets(schema: &Value, mut context: Value) -> Value {
    let _ = walk::<VaultError>(&mut context, &mut String::new(), &mut |pointer, value| {
        if value.is_string() && secret_at(schema, pointer) {
            *value = Value::Null;
        }
        Ok(false)
    });
    if context.is_object() {
        context
    } else {
        Value::Object(Map::new())
    }
}

#[cfg(test)]
mod tests {
    use super::super::MasterKey;
    use super::*;

    const ROW: &str = "subscription/sub_1";

    fn vault() -> Vault {
        Vault::new(&MasterKey::from_bytes([3; 32]), &[])
    }

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "url": {"type": "string"},
                "auth": {"oneOf": [
                    {"type": "object", "properties": {"type": {"const": "none"}}},
                    {"type": "object", "properties": {"token": {"$ref": "#/$defs/Secret"}}},
                ]},
                "keys": {"type": "array", "items": {"type": "string", "x-secret": true}},
                "signingSecret": {"anyOf": [{"type": "string", "x-secret": true}, {"type": "null"}]},
            },
            "$defs": {"Secret": {"type": "string", "x-secret": true}},
        })
    }

    fn input() -> Value {
        json!({"url": "https://x.test/", "auth": {"type": "bearer", "token": "t0~ken"}, "keys": ["k~1", "k~2"], "signingSecret": "sig"})
    }

    #[test]
    fn every_secret_is_sealed_hidden_and_opened_for_the_guest() {
        let vault = vault();
        let sealed = vault.seal_document(ROW, &schema(), 1, input());
        let stored = sealed.json.to_string();
        for secret in ["t0~ken", "k~1", "k~2", "\"sig\""] {
            assert!(!stored.contains(secret), "{stored}");
        }
        let shown = redact(&sealed);
        assert_eq!(
            shown.secrets_set,
            ["/auth/token", "/keys/0", "/keys/1", "/signingSecret"]
        );
        assert_eq!(shown.json["auth"], json!({"type": "bearer", "token": ""}));
        let guest = vault
            .open_for_guest(ROW, DocumentKind::Config, &sealed)
            .expect("opens");
        let document: Value = serde_json::from_str(&guest.json).expect("json");
        assert_eq!(
            document["auth"]["token"],
            json!({"$secret": "config#/auth/token"})
        );
        assert_eq!(
            guest
                .secrets
                .get("config#/auth/token")
                .expect("secret")
                .as_str(),
            "t0~ken"
        );
        assert_eq!(
            guest.fields.get("url").map(String::as_str),
            Some("https://x.test/")
        );
        assert_eq!(guest.fields.get("auth.token"), None);
    }

    #[test]
    fn an_empty_secret_keeps_the_stored_one() {
        let vault = vault();
        let sealed = vault.seal_document(ROW, &schema(), 1, input());
        let mut update = redact(&sealed).json;
        update["url"] = json!("https://y.test/");
        update["signingSecret"] = json!("new");
        let merged = vault
            .merge(ROW, &schema(), update, Some(&sealed))
            .expect("merges");
        assert_eq!(merged["auth"]["token"], "t0~ken");
        assert_eq!(merged["signingSecret"], "new");
        assert_eq!(merged["url"], "https://y.test/");
    }

    #[test]
    fn what_is_sealed_anew_is_under_the_new_key_and_the_same() {
        let old = vault();
        let sealed = old.seal_document(ROW, &schema(), 1, input());
        assert_eq!(
            old.reseal(ROW, &sealed).expect("opens"),
            None,
            "nothing to do"
        );
        let new = MasterKey::from_bytes([4; 32]);
        let rotated = Vault::new(&new, &[MasterKey::from_bytes([3; 32])]);
        let resealed = rotated
            .reseal(ROW, &sealed)
            .expect("opens")
            .expect("changed");
        assert_eq!(keys_of(&resealed), [new.id()].into());
        assert_eq!(redact(&resealed), redact(&sealed));
        let alone = Vault::new(&new, &[]);
        let open = |vault: &Vault, document: &SealedDocument| {
            let merged = vault.merge(ROW, &schema(), redact(document).json, Some(document));
            merged.expect("opens")
        };
        assert_eq!(open(&alone, &resealed), open(&old, &sealed));
        assert!(alone.reseal(ROW, &sealed).is_err(), "without the old key");
        assert!(rotated.reseal("another/row", &sealed).is_err(), "moved");
    }

    #[test]
    fn markers_cannot_be_smuggled_in() {
        let vault = vault();
        for marker in [
            json!({"$sealed": "v1.x.y"}),
            json!({"$secret": "config#/keys/0"}),
        ] {
            let error = vault
                .merge(ROW, &schema(), json!({"auth": {"token": marker}}), None)
                .expect_err("refused");
            assert_eq!(error, VaultError::Smuggled("/auth/token".to_owned()));
        }
    }

    #[test]
    fn secrets_that_could_not_be_sealed_are_refused_with_the_schema() {
        check_schema(&schema()).expect("fine");
        for bad in [
            json!({"properties": {"a": {"type": "object", "x-secret": true}}}),
            json!({"properties": {"a": {"x-secret": true}}}),
            json!({"patternProperties": {"^k": {"type": "string", "x-secret": true}}}),
            json!({"if": {"properties": {"a": {"type": "string", "x-secret": true}}}}),
        ] {
            assert!(check_schema(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_schema_made_to_cost_time_hides_rather_than_hangs() {
        let schema = json!({
            "properties": {"a": {"$ref": "#/$defs/n"}},
            "$defs": {"n": {"anyOf": [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/n"}]}},
        });
        let sealed = vault().seal_document(ROW, &schema, 1, json!({"a": "text"}));
        assert_eq!(redact(&sealed).secrets_set, ["/a"]);
    }

    #[test]
    fn a_form_goes_to_the_guest_without_its_secrets() {
        let shown = without_secrets(&schema(), input());
        assert_eq!(shown["auth"]["token"], Value::Null);
        assert_eq!(shown["url"], "https://x.test/");
    }
}

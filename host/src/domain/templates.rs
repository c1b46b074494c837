//! Templates in a config, checked when the config is stored instead of when the first event fails.
//!
//! A template is where the provider's schema says `x-template`. What it may name are `payload`,
//! `event`, `delivery` and `subscription`, as the SDK's templates have them; what a payload has is
//! what the schemas of the event types say. A name that can never be there is an error; one that a
//! schema does not mention, and does not forbid either, is a warning.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use minijinja::Environment;
use serde_json::Value;

use super::marks::is_marked;

/// References that are followed in a payload's schema.
const DEPTH_MAX: usize = 32;
/// Findings told at once.
const FINDINGS_MAX: usize = 20;

/// What delivery-time templates see beside the payload; the SDK's `Templates` is the source.
const KNOWN: [&str; 9] = [
    "event.id",
    "event.type",
    "event.timestamp",
    "event.correlationKey",
    "delivery.id",
    "delivery.attempt",
    "delivery.externalId",
    "subscription.id",
    "subscription.name",
];
const ROOTS: [&str; 4] = ["payload", "event", "delivery", "subscription"];

/// Names of functions (`range`, `dict`, `namespace`), which look like variables.
static FUNCTIONS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let environment = Environment::new();
    let names = environment.globals().map(|(name, _)| name.to_owned());
    names.chain(["loop".to_owned()]).collect()
});

/// Something about a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// JSON Pointer of the template in the config.
    pub pointer: String,
    /// What is wrong, and the nearest name that would not be.
    pub message: String,
    /// Whether it cannot be right whatever the event.
    pub is_error: bool,
}

/// What is known of payloads: the schema of each event type that can come, `None` for one without.
pub type PayloadSchemas<'a> = [Option<&'a Value>];

/// Checks every template of a config; `schema` is the provider's.
#[must_use]
pub fn check(schema: &Value, config: &Value, payloads: &PayloadSchemas) -> Vec<Finding> {
    let mut templates = Vec::new();
    collect(schema, config, &mut String::new(), &mut templates);
    let mut found: Vec<_> = templates
        .iter()
        .flat_map(|(pointer, text)| check_template(pointer, text, payloads))
        .collect();
    found.truncate(FINDINGS_MAX);
    found
}

fn collect<'a>(
    schema: &Value,
    value: &'a Value,
    pointer: &mut String,
    found: &mut Vec<(String, &'a str)>,
) {
    let length = pointer.len();
    let mut below = |segment: &str, value, found: &mut Vec<_>| {
        pointer.push('/');
        pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
        collect(schema, value, pointer, found);
        pointer.truncate(length);
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                below(name, member, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                below(&index.to_string(), item, found);
            }
        }
        Value::String(text)
            if (text.contains("{{") || text.contains("{%"))
                && is_marked(schema, "x-template", pointer) =>
        {
            found.push((pointer.clone(), text));
        }
        _ => {}
    }
}

fn check_template(pointer: &str, text: &str, payloads: &PayloadSchemas) -> Vec<Finding> {
    let finding = |message: String, is_error: bool| Finding {
        pointer: pointer.to_owned(),
        message,
        is_error,
    };
    let mut paths = BTreeSet::new();
    if let Err(message) = paths_of(text, &mut paths) {
        return vec![finding(message, true)];
    }
    paths
        .iter()
        .filter_map(|path| {
            let (message, is_error) = check_path(path, payloads)?;
            Some(finding(message, is_error))
        })
        .collect()
}

/// The paths that a template names. One that is JSON has its templates in its strings, as the SDK
/// renders it.
fn paths_of(text: &str, paths: &mut BTreeSet<String>) -> Result<(), String> {
    match serde_json::from_str::<Value>(text) {
        Ok(json @ (Value::Object(_) | Value::Array(_))) => paths_of_leaves(&json, paths),
        _ => paths_of_text(text, paths),
    }
}

fn paths_of_leaves(value: &Value, paths: &mut BTreeSet<String>) -> Result<(), String> {
    match value {
        Value::String(text) => paths_of_text(text, paths),
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| paths_of_leaves(item, paths)),
        Value::Object(members) => members
            .values()
            .try_for_each(|member| paths_of_leaves(member, paths)),
        _ => Ok(()),
    }
}

fn paths_of_text(text: &str, paths: &mut BTreeSet<String>) -> Result<(), String> {
    let environment = Environment::empty();
    let template = environment.template_from_str(text).map_err(|error| {
        let line = error
            .line()
            .map_or(String::new(), |line| format!(" in line {line}"));
        let detail = error.detail().unwrap_or("it cannot be read");
        format!("not a template{line}: {detail}")
    })?;
    paths.extend(template.undeclared_variables(true));
    Ok(())
}

fn check_path(path: &str, payloads: &PayloadSchemas) -> Option<(String, bool)> {
    let segments: Vec<&str> = path.split('.').collect();
    let (root, rest) = segments.split_first()?;
    if !ROOTS.contains(root) {
        if FUNCTIONS.contains(*root) {
            return None;
        }
        let names = ROOTS.iter().map(|name| (*name).to_owned());
        return Some((unknown(path, path, names, ROOTS[0]), true));
    }
    if *root != "payload" {
        let known = rest.is_empty() || KNOWN.contains(&path);
        let names = KNOWN.iter().filter(|known| known.starts_with(*root));
        let names = names.map(|name| (*name).to_owned());
        return (!known).then(|| (unknown(path, path, names, root), true));
    }
    let verdicts: Option<Vec<_>> = payloads
        .iter()
        .map(|schema| Some(Place::of(schema.as_ref()?, rest)))
        .collect();
    let verdicts = verdicts.filter(|verdicts| !verdicts.is_empty())?;
    if verdicts.iter().any(|place| place.verdict == Verdict::Fine) {
        return None;
    }
    let is_error = verdicts
        .iter()
        .all(|place| place.verdict == Verdict::Impossible);
    let first = verdicts.into_iter().next()?;
    let prefix = format!("payload.{}", rest[..first.depth].join("."));
    let prefix = prefix.trim_end_matches('.');
    let names = first.names.iter().map(|name| format!("{prefix}.{name}"));
    let wrong = format!("{prefix}.{}", rest.get(first.depth).unwrap_or(&""));
    Some((unknown(path, &wrong, names, prefix), is_error))
}

/// What is not there, and what may have been meant.
fn unknown(path: &str, wrong: &str, names: impl Iterator<Item = String>, place: &str) -> String {
    let mut names: Vec<_> = names
        .map(|name| (strsim::damerau_levenshtein(&name, wrong), name))
        .collect();
    names.sort();
    match names.first() {
        Some((distance, name)) if *distance <= 1 + wrong.len() / 4 => {
            format!("{path}: there is no {wrong}; did you mean {name}?")
        }
        Some(_) => {
            let names: Vec<_> = names.into_iter().take(8).map(|(_, name)| name).collect();
            format!("{path}: there is no {wrong}; there is {}", names.join(", "))
        }
        None => format!("{path}: there is nothing below {place}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// The schema forbids it.
    Impossible,
    /// The schema describes others beside it.
    Unmentioned,
    /// Described, or nothing is known.
    Fine,
}

/// What a payload's schema says of a path.
#[derive(Debug)]
struct Place {
    verdict: Verdict,
    /// Segments that were found.
    depth: usize,
    /// What stands where the next one was looked for.
    names: Vec<String>,
}

impl Place {
    fn of(schema: &Value, path: &[&str]) -> Self {
        let mut here = vec![schema];
        for (depth, segment) in path.iter().enumerate() {
            let parts = parts(schema, &here);
            let described = |part: &&Value| part.get("properties")?.get(segment).map(|_| ());
            if !parts.iter().any(|part| described(part).is_some()) {
                return Self::missing(&parts, depth);
            }
            here = parts
                .iter()
                .filter_map(|part| part.get("properties")?.get(segment))
                .collect();
        }
        Self {
            verdict: Verdict::Fine,
            depth: path.len(),
            names: Vec::new(),
        }
    }

    fn missing(parts: &[&Value], depth: usize) -> Self {
        let names: BTreeSet<String> = parts
            .iter()
            .filter_map(|part| part.get("properties")?.as_object())
            .flat_map(|members| members.keys().cloned())
            .collect();
        let is =
            |part: &Value, keyword: &str, value: bool| part.get(keyword) == Some(&value.into());
        let opened = |part: &&Value| {
            let further = part.get("additionalProperties");
            part.get("patternProperties").is_some()
                || further.is_some_and(|further| further.is_object() || *further == true)
        };
        let closed = |part: &&Value| {
            is(part, "additionalProperties", false) || is(part, "unevaluatedProperties", false)
        };
        let scalar = |part: &&Value| match part.get("type") {
            Some(Value::String(kind)) => kind != "object",
            Some(Value::Array(kinds)) => kinds.iter().all(|kind| kind != "object"),
            _ => false,
        };
        let verdict = if parts.iter().any(opened) {
            Verdict::Fine
        } else if parts.iter().any(closed) || parts.iter().any(scalar) {
            Verdict::Impossible
        } else if names.is_empty() {
            Verdict::Fine
        } else {
            Verdict::Unmentioned
        };
        Self {
            verdict,
            depth,
            names: names.into_iter().collect(),
        }
    }
}

/// The schemas with what they refer to and are composed of.
fn parts<'a>(root: &'a Value, schemas: &[&'a Value]) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = Vec::new();
    let mut next: Vec<(&Value, usize)> = schemas.iter().map(|schema| (*schema, 0)).collect();
    while let Some((schema, depth)) = next.pop() {
        if depth > DEPTH_MAX || found.iter().any(|known| std::ptr::eq(*known, schema)) {
            continue;
        }
        found.push(schema);
        let reference = schema.get("$ref").and_then(Value::as_str);
        let target = reference.and_then(|reference| root.pointer(reference.strip_prefix('#')?));
        next.extend(target.map(|target| (target, depth + 1)));
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let branches = schema.get(keyword).and_then(Value::as_array);
            next.extend(branches.into_iter().flatten().map(|part| (part, depth + 1)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "properties": {
                "text": {"type": "string", "x-template": true},
                "plain": {"type": "string"},
                "fields": {"type": "array", "items": {"properties": {"value": {"anyOf": [{"type": "string", "x-template": true}, {"type": "null"}]}}}},
            },
        })
    }

    fn payload(closed: bool) -> Value {
        json!({
            "type": "object",
            "properties": {
                "incident": {"$ref": "#/$defs/incident"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "extra": {"type": "object", "additionalProperties": true},
            },
            "additionalProperties": !closed,
            "$defs": {"incident": {
                "allOf": [{"properties": {"title": {"type": "string"}}}],
                "properties": {"severity": {"type": "string"}, "owner": {"type": "object"}},
                "unevaluatedProperties": !closed,
            }},
        })
    }

    fn told(text: &str, payloads: &PayloadSchemas) -> Vec<(String, bool)> {
        check(&schema(), &json!({"text": text}), payloads)
            .into_iter()
            .inspect(|finding| assert_eq!(finding.pointer, "/text"))
            .map(|finding| (finding.message, finding.is_error))
            .collect()
    }

    #[test]
    fn what_can_be_there_is_left_alone() {
        let closed = payload(true);
        for text in [
            "{{ payload.incident.title }} {{ payload.incident.severity | upper }}",
            "{{ payload.incident.owner.name }} {{ payload.extra.anything.at.all }}",
            "{% for tag in payload.tags %}{{ loop.index }} {{ tag }}{% endfor %}{{ range(3) }}",
            "{% set x = payload.incident %}{{ x.whatever }} {{ payload.tags[0] }}",
            "{{ event.type }} {{ event.correlationKey }} {{ delivery.externalId }} {{ subscription.name }}",
            "{\"a\": {\"b\": \"{{ payload.incident.title | default(\\\"none\\\") }}\"}}",
            "no template, {x}",
        ] {
            assert_eq!(told(text, &[Some(&closed)]), [], "{text}");
            assert_eq!(told(text, &[]), [], "{text}");
        }
        let plain = json!({"plain": "{{ nonsense"});
        assert_eq!(check(&schema(), &plain, &[]), []);
    }

    #[test]
    fn what_cannot_be_there_is_named_with_the_nearest_that_can() {
        let closed = payload(true);
        for (text, expected) in [
            (
                "{{ payload.incidnet.title }}",
                "payload.incidnet.title: there is no payload.incidnet; did you mean payload.incident?",
            ),
            (
                "{\"a\": [\"{{ payload.incident.titel }}\"]}",
                "payload.incident.titel: there is no payload.incident.titel; did you mean payload.incident.title?",
            ),
            (
                "{{ payload.incident.zzzzzzzzzzzz }}",
                "payload.incident.zzzzzzzzzzzz: there is no payload.incident.zzzzzzzzzzzz; there is payload.incident.owner, payload.incident.severity, payload.incident.title",
            ),
            (
                "{{ payload.incident.title.length }}",
                "payload.incident.title.length: there is nothing below payload.incident.title",
            ),
            (
                "{{ paylaod.incident }}",
                "paylaod.incident: there is no paylaod.incident; there is payload, delivery, event, subscription",
            ),
            (
                "{{ event.typ }}",
                "event.typ: there is no event.typ; did you mean event.type?",
            ),
        ] {
            assert_eq!(
                told(text, &[Some(&closed)]),
                [(expected.to_owned(), true)],
                "{text}"
            );
        }
        let broken = told("a\n{{ payload. }}", &[]);
        assert!(broken[0].1 && broken[0].0.contains("line 2"), "{broken:?}");
    }

    #[test]
    fn what_a_schema_does_not_mention_is_a_warning_and_one_type_that_has_it_is_enough() {
        let open = json!({"properties": {"incident": {"properties": {"title": {}}}}});
        let text = "{{ payload.incident.titel }}";
        assert!(!told(text, &[Some(&open)])[0].1);
        let closed = payload(true);
        assert!(!told(text, &[Some(&closed), Some(&open)])[0].1);
        assert!(told(text, &[Some(&closed), Some(&closed)])[0].1);
        assert_eq!(told(text, &[Some(&closed), None]), []);
        assert_eq!(
            told("{{ payload.tags }}", &[Some(&open), Some(&closed)]),
            []
        );
    }

    #[test]
    fn templates_are_found_in_lists_and_branches() {
        let config = json!({"fields": [{"value": null}, {"value": "{{ x }}"}]});
        let found = check(&schema(), &config, &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pointer, "/fields/1/value");
    }
}

//! The properties that a payload can have, for people who write templates.

use serde_json::Value;

/// Deepest path, and the most paths of one type: a schema may refer to itself.
const DEPTH_MAX: usize = 12;
const PATHS_MAX: usize = 1_000;

/// One property.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PropertyPath {
    /// As a template writes it, without `payload.`: `incident.title`; `tags[]` for the items of a
    /// list.
    pub path: String,
    /// The JSON types it can have.
    pub types: Vec<String>,
    /// The schema's title.
    pub title: Option<String>,
    /// The schema's description.
    pub description: Option<String>,
    /// An example value.
    pub example: Option<Value>,
}

/// The paths that a schema describes, in its order.
#[must_use]
pub fn of_schema(schema: &Value, example: Option<&Value>) -> Vec<PropertyPath> {
    let mut found = Vec::new();
    walk(schema, schema, "", example, 0, &mut found);
    found
}

/// The paths of an example, where there is no schema.
#[must_use]
pub fn of_example(example: &Value) -> Vec<PropertyPath> {
    let mut found = Vec::new();
    walk_example(example, "", 0, &mut found);
    found
}

fn walk(
    root: &Value,
    schema: &Value,
    path: &str,
    example: Option<&Value>,
    depth: usize,
    found: &mut Vec<PropertyPath>,
) {
    if depth > DEPTH_MAX || found.len() >= PATHS_MAX {
        return;
    }
    if let Some(target) = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.strip_prefix('#')?))
    {
        walk(root, target, path, example, depth + 1, found);
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for branch in schema
            .get(keyword)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            walk(root, branch, path, example, depth + 1, found);
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, member) in properties.into_iter().flatten() {
        let below = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let value = example.and_then(|example| example.get(name));
        note(root, member, &below, value, found);
        walk(root, member, &below, value, depth + 1, found);
    }
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        let below = format!("{path}[]");
        let value = example.and_then(|example| example.get(0));
        note(root, items, &below, value, found);
        walk(root, items, &below, value, depth + 1, found);
    }
}

/// Adds a path, or what another branch says of it.
fn note(
    root: &Value,
    schema: &Value,
    path: &str,
    example: Option<&Value>,
    found: &mut Vec<PropertyPath>,
) {
    let reference = schema.get("$ref").and_then(Value::as_str);
    let target = reference.and_then(|reference| root.pointer(reference.strip_prefix('#')?));
    let keyword = |name: &str| {
        schema
            .get(name)
            .or_else(|| target.and_then(|target| target.get(name)))
    };
    let text = |name: &str| keyword(name).and_then(Value::as_str).map(str::to_owned);
    let types: Vec<String> = match keyword("type") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many
            .iter()
            .filter_map(|one| one.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    };
    if let Some(known) = found.iter_mut().find(|known| known.path == path) {
        for kind in types {
            if !known.types.contains(&kind) {
                known.types.push(kind);
            }
        }
        return;
    }
    let first_example = || keyword("examples").and_then(|list| list.get(0)).cloned();
    found.push(PropertyPath {
        path: path.to_owned(),
        types,
        title: text("title"),
        description: text("description"),
        example: example.cloned().or_else(first_example),
    });
}

fn walk_example(value: &Value, path: &str, depth: usize, found: &mut Vec<PropertyPath>) {
    if depth > DEPTH_MAX || found.len() >= PATHS_MAX {
        return;
    }
    let mut add = |path: String, value: &Value| {
        if !found.iter().any(|known| known.path == path) {
            found.push(PropertyPath {
                path: path.clone(),
                types: vec![type_of(value).to_owned()],
                example: Some(value.clone()),
                ..PropertyPath::default()
            });
        }
        walk_example(value, &path, depth + 1, found);
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let below = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                add(below, member);
            }
        }
        Value::Array(items) => {
            if let Some(first) = items.first() {
                add(format!("{path}[]"), first);
            }
        }
        _ => {}
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(found: &[PropertyPath]) -> Vec<String> {
        found
            .iter()
            .map(|found| format!("{}: {}", found.path, found.types.join("|")))
            .collect()
    }

    #[test]
    fn a_schema_is_followed_through_references_branches_and_lists() {
        let schema = json!({
            "properties": {
                "incident": {"$ref": "#/$defs/incident"},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "oneOf": [
                {"properties": {"by": {"type": "string"}}},
                {"properties": {"by": {"type": "integer"}}},
            ],
            "$defs": {"incident": {"type": "object", "description": "What happened", "properties": {
                "title": {"type": ["string", "null"], "examples": ["Disk full"]},
                "parent": {"$ref": "#/$defs/incident"},
            }}},
        });
        let found = of_schema(&schema, Some(&json!({"tags": ["a"]})));
        let listed = paths(&found);
        for expected in [
            "by: string|integer",
            "incident: object",
            "incident.title: string|null",
            "tags: array",
            "tags[]: string",
            "incident.parent.title: string|null",
        ] {
            assert!(
                listed.contains(&expected.to_owned()),
                "{expected} in {listed:?}"
            );
        }
        let of = |path: &str| {
            found
                .iter()
                .find(|found| found.path == path)
                .expect("there")
        };
        assert_eq!(of("incident").description.as_deref(), Some("What happened"));
        assert_eq!(of("incident.title").example, Some(json!("Disk full")));
        assert_eq!(of("tags[]").example, Some(json!("a")));
        assert!(
            found.len() < PATHS_MAX,
            "a schema that refers to itself ends"
        );
    }

    #[test]
    fn an_example_gives_the_paths_where_there_is_no_schema() {
        let found = of_example(&json!({"a": {"b": 1}, "list": [{"c": 1.5}, {"d": null}]}));
        assert_eq!(
            paths(&found),
            [
                "a: object",
                "a.b: integer",
                "list: array",
                "list[]: object",
                "list[].c: number"
            ]
        );
    }
}

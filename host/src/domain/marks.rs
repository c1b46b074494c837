//! Places that a provider's schema marks: `x-secret`, `x-template`.
//!
//! The schema is followed through `properties`, `items`, `prefixItems`, `additionalProperties`,
//! `$ref` and `$defs`, and through every branch of `allOf`, `anyOf` and `oneOf`: a place that any
//! branch marks is marked.

use serde_json::Value;

/// Deeper schemas and documents are not followed; the API refuses such documents anyway.
const DEPTH_MAX: usize = 64;

/// Schema nodes looked at for one leaf. A schema that needs more is made to cost time, not to
/// describe a form; its leaves count as marked: that hides too much of it rather than too little.
const STEPS_MAX: u32 = 10_000;

/// Whether the schema says `"mark": true` of the place `pointer` (RFC 6901).
#[must_use]
pub fn is_marked(schema: &Value, mark: &str, pointer: &str) -> bool {
    let segments = segments(pointer);
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    Search {
        root: schema,
        mark,
        steps: 0,
    }
    .finds(schema, &segments, 0)
}

/// The segments of a JSON Pointer, unescaped.
#[must_use]
pub fn segments(pointer: &str) -> Vec<String> {
    pointer
        .split('/')
        .skip(1)
        .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
        .collect()
}

struct Search<'a> {
    root: &'a Value,
    mark: &'a str,
    steps: u32,
}

impl Search<'_> {
    fn finds(&mut self, schema: &Value, segments: &[&str], depth: usize) -> bool {
        if depth > DEPTH_MAX {
            return false;
        }
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return true;
        }
        let root = self.root;
        let mut look = |schema: Option<&Value>, segments: &[&str]| {
            schema.is_some_and(|schema| self.finds(schema, segments, depth + 1))
        };
        let reference = schema.get("$ref").and_then(Value::as_str);
        let target = reference.and_then(|reference| root.pointer(reference.strip_prefix('#')?));
        if look(target, segments) {
            return true;
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let branches = schema.get(keyword).and_then(Value::as_array);
            for branch in branches.into_iter().flatten() {
                if look(Some(branch), segments) {
                    return true;
                }
            }
        }
        let Some((first, rest)) = segments.split_first() else {
            return schema.get(self.mark) == Some(&Value::Bool(true));
        };
        let member = |keyword: &str| schema.get(keyword).and_then(|members| members.get(*first));
        let index = first.parse::<usize>().ok();
        let item = index.and_then(|index| schema.get("prefixItems")?.get(index));
        look(member("properties"), rest)
            || look(schema.get("additionalProperties"), rest)
            || look(schema.get("items"), rest)
            || look(item, rest)
    }
}

//! Which variable was undefined, and what may have been meant: the template language's own error
//! says only the line.

use minijinja::value::ValueKind;
use minijinja::{Environment, Value};

/// Names told at once.
const NAMES_MAX: usize = 3;

/// What the template names and the variables do not have, as the end of a sentence; empty where
/// nothing is found (an item of a loop, say).
pub(super) fn missing(variables: &Value, environment: &Environment, template: &str) -> String {
    let Ok(template) = environment.template_from_str(template) else {
        return String::new();
    };
    let mut paths: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    paths.sort();
    let told: Vec<String> = paths
        .iter()
        .filter_map(|path| lookup(variables, environment, path))
        .take(NAMES_MAX)
        .collect();
    if told.is_empty() {
        return String::new();
    }
    format!(": {}", told.join("; "))
}

/// What is wrong with a path; `None` where it leads to a value.
fn lookup(variables: &Value, environment: &Environment, path: &str) -> Option<String> {
    let mut here = variables.clone();
    let mut found = String::new();
    for segment in path.split('.') {
        let below = here.get_attr(segment).unwrap_or(Value::UNDEFINED);
        if below.is_undefined() {
            let is_function = environment.globals().any(|(name, _)| name == path);
            return (!is_function).then(|| said(&here, &found, segment));
        }
        if !found.is_empty() {
            found.push('.');
        }
        found.push_str(segment);
        here = below;
    }
    None
}

fn said(place: &Value, prefix: &str, segment: &str) -> String {
    let full = |name: &str| match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}.{name}"),
    };
    let names = (place.kind() == ValueKind::Map)
        .then(|| place.try_iter().ok())
        .flatten();
    let nearest = names
        .into_iter()
        .flatten()
        .filter_map(|name| {
            let name = name.as_str()?.to_owned();
            Some((strsim::damerau_levenshtein(&name, segment), name))
        })
        .min()
        .filter(|(distance, _)| *distance <= 1 + segment.len() / 3);
    let meant = nearest.map_or(String::new(), |(_, name)| {
        format!("; did you mean {}?", full(&name))
    });
    format!("there is no {}{meant}", full(segment))
}

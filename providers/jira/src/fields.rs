//! Values of fields as Jira wants them, from text.
//!
//! Shapes: <https://developer.atlassian.com/server/jira/platform/jira-rest-api-examples/> and, for
//! rich text, the Atlassian Document Format,
//! <https://developer.atlassian.com/cloud/jira/platform/apis/document/structure/>.

use hookport_sdk::serde_json::{Value, json};

/// Longest description or comment that Jira takes, in characters.
const TEXT_MAX: usize = 32_767;

/// Text as an API wants it: Cloud a document, Data Center the text itself.
pub fn rich_text(cloud: bool, text: &str) -> Value {
    let text: String = text.chars().take(TEXT_MAX - 1_000).collect();
    if !cloud {
        return text.into();
    }
    let paragraphs: Vec<Value> = text
        .trim()
        .split("\n\n")
        .map(|paragraph| {
            let mut content = Vec::new();
            for (index, line) in paragraph.lines().enumerate() {
                if index > 0 {
                    content.push(json!({"type": "hardBreak"}));
                }
                // An empty text node is not allowed.
                if !line.is_empty() {
                    content.push(json!({"type": "text", "text": line}));
                }
            }
            json!({"type": "paragraph", "content": content})
        })
        .collect();
    json!({"version": 1, "type": "doc", "content": paragraphs})
}

/// A field with its type.
pub struct Mapped<'a> {
    field: &'a str,
    schema: &'a Value,
    allowed: Option<&'a Vec<Value>>,
    cloud: bool,
}

impl<'a> Mapped<'a> {
    /// Finds the field among those of the issue type.
    ///
    /// # Errors
    /// With the nearest names when it is not there.
    pub fn new(field: &'a str, known: &'a [Value], cloud: bool) -> Result<Self, String> {
        let id = |one: &'a Value| one["fieldId"].as_str().or_else(|| one["key"].as_str());
        let Some(found) = known.iter().find(|one| id(one) == Some(field)) else {
            let names: Vec<_> = known.iter().filter_map(id).take(30).collect();
            return Err(format!(
                "the issue type has no field {field:?}; it has {}",
                names.join(", ")
            ));
        };
        Ok(Self {
            field,
            schema: &found["schema"],
            allowed: found["allowedValues"].as_array(),
            cloud,
        })
    }

    /// The value for Jira; `None` for an empty text.
    ///
    /// # Errors
    /// Why the text is not a value of the field's type.
    pub fn value(&self, text: &str) -> Result<Option<Value>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let kind = self.schema["type"].as_str().unwrap_or("any");
        if kind != "array" {
            return self.single(kind, text).map(Some);
        }
        let items = self.schema["items"].as_str().unwrap_or("string");
        let values: Result<Vec<Value>, String> = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| self.single(items, part))
            .collect();
        Ok(Some(values?.into()))
    }

    fn single(&self, kind: &str, text: &str) -> Result<Value, String> {
        let wrong = |expected: &str| {
            Err(format!(
                "the field {} wants {expected}, not {text:?}",
                self.field
            ))
        };
        Ok(match kind {
            "string" if self.is_long_text() => rich_text(self.cloud, text),
            "string" | "any" => text.into(),
            "number" => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => json!(number),
                _ => return wrong("a number"),
            },
            "date" => match text.get(..10) {
                Some(date) if is_date(date) => date.into(),
                _ => return wrong("a date such as 2026-01-31"),
            },
            "datetime" => match text.get(..10) {
                Some(date) if is_date(date) && text.contains('T') => jira_time(text).into(),
                _ => return wrong("a time such as 2026-01-31T08:00:00Z"),
            },
            "option" => json!({"value": self.allowed_name("value", text)?}),
            "priority" | "version" | "component" | "resolution" | "securitylevel" | "group" => {
                json!({"name": self.allowed_name("name", text)?})
            }
            "user" if self.cloud => json!({"accountId": text}),
            "user" => json!({"name": text}),
            "project" | "issuelink" => json!({"key": text}),
            other => {
                return Err(format!(
                    "the field {} is of the type {other:?}, which cannot be filled from text",
                    self.field
                ));
            }
        })
    }

    /// Text areas are rich text in version 3.
    fn is_long_text(&self) -> bool {
        let custom = self.schema["custom"].as_str().unwrap_or("");
        let system = self.schema["system"].as_str().unwrap_or("");
        custom.ends_with(":textarea") || matches!(system, "description" | "environment")
    }

    /// The value as Jira writes it, where the field allows certain values only.
    fn allowed_name(&self, member: &str, text: &str) -> Result<String, String> {
        let Some(allowed) = self.allowed.filter(|allowed| !allowed.is_empty()) else {
            return Ok(text.to_owned());
        };
        let names = || allowed.iter().filter_map(|one| one[member].as_str());
        if let Some(name) = names().find(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(name.to_owned());
        }
        let listed: Vec<_> = names().take(20).collect();
        Err(format!(
            "the field {} does not allow {text:?}; it allows {}",
            self.field,
            listed.join(", ")
        ))
    }
}

fn is_date(text: &str) -> bool {
    text.bytes().enumerate().all(|(index, byte)| match index {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    })
}

/// Jira reads offsets as `+0000`, milliseconds included: `2026-01-31T08:00:00.000+0000`.
fn jira_time(text: &str) -> String {
    let (time, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(time) => (time, "+0000".to_owned()),
        None => match text.rfind(['+', '-']).filter(|at| *at > 10) {
            Some(at) => (&text[..at], text[at..].replace(':', "")),
            None => (text, "+0000".to_owned()),
        },
    };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    format!("{whole}.{fraction}{offset}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<Value> {
        let field = |id: &str, schema: Value, allowed: Value| json!({"fieldId": id, "name": id, "schema": schema, "allowedValues": allowed});
        let none = || json!([]);
        vec![
            field("text", json!({"type": "string"}), none()),
            field(
                "area",
                json!({"type": "string", "custom": "com.atlassian.jira.plugin.system.customfieldtypes:textarea"}),
                none(),
            ),
            field("points", json!({"type": "number"}), none()),
            field("duedate", json!({"type": "date"}), none()),
            field("when", json!({"type": "datetime"}), none()),
            field(
                "team",
                json!({"type": "option"}),
                json!([{"value": "Red"}, {"value": "Blue"}]),
            ),
            field(
                "teams",
                json!({"type": "array", "items": "option"}),
                json!([{"value": "Red"}, {"value": "Blue"}]),
            ),
            field(
                "components",
                json!({"type": "array", "items": "component"}),
                json!([{"name": "API"}]),
            ),
            field(
                "labels",
                json!({"type": "array", "items": "string"}),
                none(),
            ),
            field("assignee", json!({"type": "user"}), none()),
            field("timetracking", json!({"type": "timetracking"}), none()),
        ]
    }

    fn value(field: &str, text: &str, cloud: bool) -> Result<Option<Value>, String> {
        Mapped::new(field, &known(), cloud)?.value(text)
    }

    #[test]
    fn text_becomes_what_the_type_wants() {
        let check = |field: &str, text: &str, expected: Value| {
            assert_eq!(
                value(field, text, true),
                Ok(Some(expected)),
                "{field} {text}"
            );
        };
        check("text", "a", json!("a"));
        check("area", "a", rich_text(true, "a"));
        check("points", "3.5", json!(3.5));
        check("duedate", "2026-01-31T08:00:00Z", json!("2026-01-31"));
        check(
            "when",
            "2026-01-31T08:00:00.5+01:00",
            json!("2026-01-31T08:00:00.500+0100"),
        );
        check(
            "when",
            "2026-01-31T08:00:00Z",
            json!("2026-01-31T08:00:00.000+0000"),
        );
        check("team", "red", json!({"value": "Red"}));
        check(
            "teams",
            "red, Blue",
            json!([{"value": "Red"}, {"value": "Blue"}]),
        );
        check("components", "api", json!([{"name": "API"}]));
        check("labels", "a,b,,", json!(["a", "b"]));
        check("assignee", "5b10", json!({"accountId": "5b10"}));
        assert_eq!(
            value("assignee", "ann", false),
            Ok(Some(json!({"name": "ann"})))
        );
        assert_eq!(value("area", "a", false), Ok(Some(json!("a"))));
        assert_eq!(value("points", "", true), Ok(None));
    }

    #[test]
    fn what_does_not_fit_names_the_field_and_what_it_wants() {
        let check = |field: &str, text: &str, words: &str| {
            let error = value(field, text, true).expect_err(field);
            assert!(error.contains(field) && error.contains(words), "{error}");
        };
        check("points", "many", "a number");
        check("duedate", "tomorrow", "a date");
        check("when", "2026-01-31", "a time");
        check("team", "green", "allows Red, Blue");
        check("timetracking", "1h", "cannot be filled");
        check("nothing", "x", "it has text, area");
    }

    #[test]
    fn a_document_has_paragraphs_and_breaks_and_no_empty_text() {
        let document = rich_text(true, "a\nb\n\nc\n");
        assert_eq!(
            document["content"][0]["content"],
            json!([
                {"type": "text", "text": "a"}, {"type": "hardBreak"}, {"type": "text", "text": "b"},
            ])
        );
        assert_eq!(
            document["content"][1]["content"],
            json!([{"type": "text", "text": "c"}])
        );
        assert_eq!(rich_text(true, "")["content"][0]["content"], json!([]));
    }
}

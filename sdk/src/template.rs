//! Templates over the event: `{{ payload.incident.title }}`.
//!
//! The language is minijinja's (Jinja2). An undefined variable is an error, not an empty string:
//! an empty value could broaden a search or blank a field. A template has a budget, so one that
//! loops without end is reported instead of running into the sandbox's CPU limit.

pub mod escape;
mod undefined;
mod url;

use std::cell::OnceCell;

use minijinja::default_auto_escape_callback;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, ErrorKind, State, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;

use crate::error::DeliveryError;
use crate::provider::{Delivery, Provider};

/// Instructions that one rendering may take.
const FUEL: u64 = 200_000;

/// The name of templates whose result is not read by the receiver's markup.
const UNESCAPED: &str = "template.unescaped";

/// What templates see: `payload`, `event` (id, type, timestamp, correlationKey), `delivery` (id,
/// attempt, externalId) and `subscription` (id, name).
pub struct Templates {
    bare: OnceCell<Environment<'static>>,
    full: OnceCell<Environment<'static>>,
    escape: Option<fn(&str) -> String>,
    context: minijinja::Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Variables<'a> {
    payload: Value,
    event: EventVariables<'a>,
    delivery: DeliveryVariables<'a>,
    subscription: SubscriptionVariables<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventVariables<'a> {
    id: &'a str,
    r#type: &'a str,
    timestamp: &'a str,
    correlation_key: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryVariables<'a> {
    id: &'a str,
    attempt: u32,
    external_id: Option<&'a str>,
}

#[derive(Serialize)]
struct SubscriptionVariables<'a> {
    id: &'a str,
    name: &'a str,
}

impl Templates {
    /// The variables of one delivery.
    ///
    /// # Errors
    /// When the payload is not JSON.
    pub fn new<P: Provider>(delivery: &Delivery<P>) -> Result<Self, DeliveryError> {
        let event = &delivery.event;
        let variables = Variables {
            payload: event.payload()?,
            event: EventVariables {
                id: &event.id,
                r#type: &event.event_type,
                timestamp: &event.timestamp,
                correlation_key: event.correlation_key.as_deref(),
            },
            delivery: DeliveryVariables {
                id: &event.delivery_id,
                attempt: event.attempt,
                external_id: event.external_id.as_deref(),
            },
            subscription: SubscriptionVariables {
                id: &delivery.subscription.id,
                name: &delivery.subscription.name,
            },
        };
        Ok(Self {
            bare: OnceCell::new(),
            full: OnceCell::new(),
            escape: None,
            context: minijinja::Value::from(minijinja::value::Serde(&variables)),
        })
    }

    /// Passes each value that a template writes through `escape`, for a receiver that reads some
    /// characters as commands. `{{ value | safe }}` writes one as it stands. Values inside the
    /// JSON of [`Templates::json`] are escaped too.
    #[must_use]
    pub fn escape_with(mut self, escape: fn(&str) -> String) -> Self {
        self.escape = Some(escape);
        // What was set up for values as they are is of no use any more.
        (self.bare, self.full) = (OnceCell::new(), OnceCell::new());
        self
    }

    /// The environment that `template` needs. Setting up Jinja's filters, tests and functions
    /// takes longer than rendering a short template, and every call starts anew.
    fn environment(&self, template: &str) -> &Environment<'static> {
        let needs_names = template.contains(['|', '(']) // filters, functions
            || template.contains("{%") // tests and filters stand in tags too
            || template.contains(" is "); // tests
        if needs_names {
            self.full.get_or_init(|| {
                let mut environment = Environment::new();
                self.configure(&mut environment);
                if let Some(escape) = self.escape {
                    // The one that is built in marks its result safe, which would pass it by.
                    environment.add_filter("tojson", escaping_tojson(escape));
                }
                environment
            })
        } else {
            self.bare.get_or_init(|| {
                let mut environment = Environment::empty();
                environment.set_auto_escape_callback(default_auto_escape_callback);
                self.configure(&mut environment);
                environment
            })
        }
    }

    fn configure(&self, environment: &mut Environment<'static>) {
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        let Some(escape) = self.escape else { return };
        environment.set_formatter(move |out, state, value| {
            if value.is_safe() || state.name() == UNESCAPED {
                write!(out, "{value}")?;
            } else if matches!(state.auto_escape(), AutoEscape::Json) {
                out.write_str(&escaped_json(value, escape)?)?;
            } else {
                out.write_str(&escape(&value.to_string()))?;
            }
            Ok(())
        });
    }

    /// Renders a template as text. `field` names where it comes from, for the error.
    ///
    /// # Errors
    /// With line and reason when the template is wrong or a variable is undefined; another
    /// attempt cannot mend that.
    pub fn text(&self, field: &str, template: &str) -> Result<String, DeliveryError> {
        self.render(field, "template", template)
    }

    /// The same with further variables, which win over those of the delivery.
    ///
    /// # Errors
    /// As [`Templates::text`].
    pub fn text_with(
        &self,
        field: &str,
        template: &str,
        variables: &Value,
    ) -> Result<String, DeliveryError> {
        let variables = minijinja::Value::from(minijinja::value::Serde(variables));
        let context = minijinja::value::merge_maps([variables, self.context.clone()]);
        self.render_in(&context, field, "template", template)
    }

    /// Renders a template whose result the receiver does not read as markup: a URL, a label.
    /// What [`Templates::escape_with`] set is left out.
    ///
    /// # Errors
    /// As [`Templates::text`].
    pub fn unescaped(&self, field: &str, template: &str) -> Result<String, DeliveryError> {
        self.render(field, UNESCAPED, template)
    }

    /// Renders a template of an absolute http or https URL and checks the result, as values may
    /// bring anything. Where scheme and authority are literal in the template, values cannot
    /// change them, add a fragment or climb with dot segments; where a value gives the authority
    /// (`{{ payload.url }}`), the URL is only checked to be one. `| urlencode` keeps a value
    /// within its place.
    ///
    /// # Errors
    /// As [`Templates::text`], and when the result is not such a URL.
    pub fn url(&self, field: &str, template: &str) -> Result<String, DeliveryError> {
        let rendered = self.unescaped(field, template)?;
        url::check(template, &rendered)
            .map_err(|problem| DeliveryError::permanent(format!("{field}: {problem}")))?;
        Ok(rendered)
    }

    /// Renders a template that must give JSON. A string leaf of the template can hold any text:
    /// the template is parsed first and each string is rendered by itself, so that a quote in the
    /// payload cannot break out of its string. In a template that is no JSON before rendering (it
    /// has loops around members, say) each value is written as JSON, quotes included, for the
    /// same reason: `{"title": {{ payload.title }}}`.
    ///
    /// # Errors
    /// As [`Templates::text`], and when the result is not JSON.
    pub fn json(&self, field: &str, template: &str) -> Result<Value, DeliveryError> {
        if let Ok(mut value) = serde_json::from_str::<Value>(template) {
            self.render_leaves(field, &mut value)?;
            return Ok(value);
        }
        let text = self.render(field, "template.json", template)?;
        serde_json::from_str(&text).map_err(|error| {
            DeliveryError::permanent(format!(
                "{field}: the rendered template is not JSON: {error}; a value is written with its \
                 quotes, so put none around {{{{ … }}}}"
            ))
        })
    }

    /// The ending of `name` decides how values are written.
    fn render(&self, field: &str, name: &str, template: &str) -> Result<String, DeliveryError> {
        self.render_in(&self.context, field, name, template)
    }

    fn render_in(
        &self,
        context: &minijinja::Value,
        field: &str,
        name: &str,
        template: &str,
    ) -> Result<String, DeliveryError> {
        self.environment(template)
            .render_named_str(name, template, context)
            .map_err(|error| {
                let line = error
                    .line()
                    .map_or(String::new(), |line| format!(" in line {line}"));
                let detail = error
                    .detail()
                    .map_or(String::new(), |detail| format!(": {detail}"));
                let missing = match error.kind() {
                    ErrorKind::UndefinedError => {
                        undefined::missing(context, self.environment(template), template)
                    }
                    _ => String::new(),
                };
                DeliveryError::permanent(format!(
                    "{field}: {}{line}{detail}{missing}",
                    error.kind()
                ))
            })
    }

    fn render_leaves(&self, field: &str, value: &mut Value) -> Result<(), DeliveryError> {
        match value {
            Value::String(text) if text.contains("{{") || text.contains("{%") => {
                *text = self.text(field, text)?;
                Ok(())
            }
            Value::Array(items) => items
                .iter_mut()
                .try_for_each(|item| self.render_leaves(field, item)),
            Value::Object(members) => members
                .values_mut()
                .try_for_each(|member| self.render_leaves(field, member)),
            _ => Ok(()),
        }
    }
}

/// The filter `tojson` where values are escaped: in JSON the strings inside are, in text the
/// JSON as a whole is when it is written.
fn escaping_tojson(
    escape: fn(&str) -> String,
) -> impl Fn(
    &State,
    &minijinja::Value,
    Option<minijinja::Value>,
    Kwargs,
) -> Result<minijinja::Value, minijinja::Error> {
    move |state, value, indent, kwargs| {
        if matches!(state.auto_escape(), AutoEscape::Json) {
            return escaped_json(value, escape).map(minijinja::Value::from_safe_string);
        }
        let named = kwargs.get::<Option<minijinja::Value>>("indent")?;
        kwargs.assert_all_used()?;
        let text = if indent.or(named).is_some_and(|indent| indent.is_true()) {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        text.map(minijinja::Value::from).map_err(no_json)
    }
}

fn escaped_json(
    value: &minijinja::Value,
    escape: fn(&str) -> String,
) -> Result<String, minijinja::Error> {
    let mut json = serde_json::to_value(value).map_err(no_json)?;
    escape_leaves(&mut json, escape);
    Ok(json.to_string())
}

fn escape_leaves(value: &mut Value, escape: fn(&str) -> String) {
    match value {
        Value::String(text) => *text = escape(text),
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| escape_leaves(item, escape)),
        Value::Object(members) => members
            .values_mut()
            .for_each(|member| escape_leaves(member, escape)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn no_json(error: serde_json::Error) -> minijinja::Error {
    minijinja::Error::new(
        ErrorKind::InvalidOperation,
        "the value cannot be written as JSON",
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{TestEvent, TestHost};
    use crate::{Context, Description, NoConnection, Receipt, Retry};

    /// Renders its config: text, JSON, or either with an escape.
    struct Render;

    impl Provider for Render {
        type Config = Value;
        type Connection = NoConnection;

        fn describe() -> Description {
            Description::new("Render", "Renders")
        }

        fn deliver(_: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
            let mut templates = Templates::new(delivery)?;
            if delivery.config["escape"] == true {
                templates = templates.escape_with(|text| text.replace('<', "&lt;"));
            }
            let template = delivery.config["template"].as_str().expect("a template");
            if delivery.config["url"] == true {
                return Ok(Receipt::new(templates.url("config.url", template)?));
            }
            if delivery.config["json"] == true {
                Ok(Receipt::new(
                    templates.json("bodyTemplate", template)?.to_string(),
                ))
            } else {
                Ok(Receipt::new(templates.text("bodyTemplate", template)?))
            }
        }
    }

    fn render(config: Value) -> Result<String, DeliveryError> {
        let event = TestEvent::new("incident.created").payload(&json!({
            "title": "a \"<b>\"",
            "count": 3,
            "tags": ["x", "y"],
            "nothing": null
        }));
        let receipt = TestHost::new().deliver::<Render>(&config, None, &event)?;
        Ok(receipt.summary)
    }

    fn text(template: &str) -> String {
        render(json!({"template": template})).expect(template)
    }

    fn error(config: Value) -> String {
        let error = render(config).expect_err("wrong");
        assert_eq!(error.retry, Retry::Never, "{error}");
        error.message
    }

    #[test]
    fn variables() {
        assert_eq!(text("{{ payload.title }}"), "a \"<b>\"");
        assert_eq!(
            text("{{ event.type }} {{ delivery.attempt }}"),
            "incident.created 1"
        );
        assert_eq!(text("{{ subscription.name }}"), "Test");
        assert_eq!(text("{{ payload.tags | join('+') }}"), "x+y");
        assert_eq!(text("{{ payload.missing | default('-') }}"), "-");
        assert_eq!(text("{{ payload.title | urlencode }}"), "a%20%22%3Cb%3E%22");
    }

    #[test]
    fn what_is_undefined_is_named_by_field_and_line() {
        let message = error(json!({"template": "a\nb {{ payload.titel }}"}));
        assert_eq!(
            message,
            "bodyTemplate: undefined value in line 2: there is no payload.titel; did you mean payload.title?"
        );
        let message = error(json!({"template": "{{ payload.count.of.it }} {{ evnt.id }}"}));
        assert!(
            message
                .ends_with("there is no evnt; did you mean event?; there is no payload.count.of"),
            "{message}"
        );
        let message = error(json!({"template": "{% if %}"}));
        assert!(
            message.starts_with("bodyTemplate: syntax error in line 1"),
            "{message}"
        );
        let message = error(json!({"template": r#"{"a": "{{ payload.titel }}"}"#, "json": true}));
        assert!(message.contains("undefined value"), "{message}");
    }

    #[test]
    fn a_template_has_a_budget() {
        let message = error(json!({
            "template": "{% for i in range(10000) %}{% for j in range(10000) %}x{% endfor %}{% endfor %}"
        }));
        assert!(message.contains("fuel"), "{message}");
    }

    #[test]
    fn values_cannot_break_out_of_json() {
        let check = |template: &str, expected: Value| {
            let rendered = render(json!({"template": template, "json": true})).expect(template);
            assert_eq!(
                serde_json::from_str::<Value>(&rendered).expect("JSON"),
                expected
            );
        };
        check(
            r#"{"t": "say {{ payload.title }}"}"#,
            json!({"t": "say a \"<b>\""}),
        );
        check(r#"{"t": {{ payload.title }}}"#, json!({"t": "a \"<b>\""}));
        check(
            r#"{"t": {{ payload.title | tojson }}}"#,
            json!({"t": "a \"<b>\""}),
        );
        check(
            r#"{"n": {{ payload.count }}, "all": {{ payload.tags }}}"#,
            json!({"n": 3, "all": ["x", "y"]}),
        );
        check(
            r#"[{% for tag in payload.tags %}{{ tag }}{% if not loop.last %},{% endif %}{% endfor %}]"#,
            json!(["x", "y"]),
        );
        let message = error(
            json!({"template": r#"{"t": "{{ payload.title }}"{% if true %}{% endif %}}"#, "json": true}),
        );
        assert!(message.contains("put none around {{ … }}"), "{message}");
    }

    #[test]
    fn an_escape_reaches_every_value() {
        let check = |template: &str, json_too: bool, expected: &str| {
            let config = json!({"template": template, "json": json_too, "escape": true});
            assert_eq!(render(config).expect(template), expected, "{template}");
        };
        check("<i>{{ payload.title }}", false, "<i>a \"&lt;b>\"");
        check("{{ payload.title | safe }}", false, "a \"<b>\"");
        check(
            "{{ [payload.title] | tojson }}",
            false,
            r#"["a \"&lt;b>\""]"#,
        );
        check(
            "{{ payload.tags | tojson(indent=2) }}",
            false,
            "[\n  \"x\",\n  \"y\"\n]",
        );
        check(
            "{{ payload.tags | tojson(true) }}",
            false,
            "[\n  \"x\",\n  \"y\"\n]",
        );
        check(
            r#"{"t": {{ payload.title }}}"#,
            true,
            r#"{"t":"a \"&lt;b>\""}"#,
        );
        check(
            r#"{"t": {{ payload.title | tojson }}}"#,
            true,
            r#"{"t":"a \"&lt;b>\""}"#,
        );
        check(
            r#"{"t": "{{ payload.title }}"}"#,
            true,
            r#"{"t":"a \"&lt;b>\""}"#,
        );
    }

    #[test]
    fn urls_are_rendered_without_the_escape_and_checked() {
        let config = |template: &str| json!({"template": template, "url": true, "escape": true});
        let rendered = render(config(
            "https://a.test/{{ payload.count }}?t={{ payload.title | urlencode }}",
        ));
        assert_eq!(
            rendered.expect("a URL"),
            "https://a.test/3?t=a%20%22%3Cb%3E%22"
        );
        let message = error(config("https://a.test/{{ payload.title }}"));
        assert!(message.starts_with("config.url: "), "{message}");
        assert!(message.contains("| urlencode"), "{message}");
        let message = error(config("{{ payload.title }}"));
        assert!(message.starts_with("config.url: "), "{message}");
    }
}

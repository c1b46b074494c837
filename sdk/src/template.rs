//! Templates over the event: `{{ payload.incident.title }}`.
//!
//! The language is minijinja's (Jinja2). An undefined variable is an error, not an empty string:
//! an empty value could broaden a search or blank a field. A template has a budget, so one that
//! loops without end is reported instead of running into the sandbox's CPU limit.

use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, ErrorKind, State, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;

use crate::error::DeliveryError;
use crate::provider::{Delivery, Provider};

/// Instructions that one rendering may take.
const FUEL: u64 = 200_000;

/// What templates see: `payload`, `event` (id, type, timestamp, correlationKey), `delivery` (id,
/// attempt, externalId) and `subscription` (id, name).
pub struct Templates {
    environment: Environment<'static>,
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
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        Ok(Self {
            environment,
            context: minijinja::Value::from(minijinja::value::Serde(&variables)),
        })
    }

    /// Passes each value that a template writes through `escape`, for a receiver that reads some
    /// characters as commands. `{{ value | safe }}` writes one as it stands. Values inside the
    /// JSON of [`Templates::json`] are escaped too.
    #[must_use]
    pub fn escape_with(mut self, escape: fn(&str) -> String) -> Self {
        self.environment.set_formatter(move |out, state, value| {
            if value.is_safe() {
                write!(out, "{value}")?;
            } else if matches!(state.auto_escape(), AutoEscape::Json) {
                out.write_str(&escaped_json(value, escape)?)?;
            } else {
                out.write_str(&escape(&value.to_string()))?;
            }
            Ok(())
        });
        // The one that is built in marks its result safe, which would pass the payload by.
        self.environment.add_filter(
            "tojson",
            move |state: &State,
                  value: &minijinja::Value,
                  indent: Option<minijinja::Value>,
                  kwargs: Kwargs| {
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
            },
        );
        self
    }

    /// Renders a template as text. `field` names where it comes from, for the error.
    ///
    /// # Errors
    /// With line and reason when the template is wrong or a variable is undefined; another
    /// attempt cannot mend that.
    pub fn text(&self, field: &str, template: &str) -> Result<String, DeliveryError> {
        self.render(field, "template", template)
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
        self.environment
            .render_named_str(name, template, &self.context)
            .map_err(|error| {
                let line = error
                    .line()
                    .map_or(String::new(), |line| format!(" in line {line}"));
                let detail = error
                    .detail()
                    .map_or(String::new(), |detail| format!(": {detail}"));
                DeliveryError::permanent(format!("{field}: {}{line}{detail}", error.kind()))
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

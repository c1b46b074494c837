//! Events and their registered types.

use std::sync::Arc;

use super::clock::Timestamp;
use super::id::EventId;
use super::trace::TraceParent;

/// The fully qualified name of an event type: `incident.created`. Two or more segments of
/// `[a-z0-9_-]`, joined by dots, at most 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTypeName(Arc<str>);

/// The text cannot name an event type or a pattern of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub &'static str);

impl EventTypeName {
    /// Checks and takes `text`.
    ///
    /// # Errors
    /// When `text` is not of the form above.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_segments(text)?;
        if !text.contains('.') {
            return Err(NameError(
                "write at least two segments, as in incident.created",
            ));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_segments(text: &str) -> Result<(), NameError> {
    if text.len() > 128 {
        return Err(NameError("at most 128 bytes"));
    }
    let segment_ok = |segment: &str| {
        !segment.is_empty()
            && segment
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
    };
    if text.split('.').all(segment_ok) {
        Ok(())
    } else {
        Err(NameError(
            "use segments of a-z, 0-9, _ and - joined by dots",
        ))
    }
}

/// Which event types a subscription wants: one exactly, `incident.*` (everything below a prefix),
/// or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventPattern(Arc<str>);

impl EventPattern {
    /// Checks and takes `text`.
    ///
    /// # Errors
    /// When `text` is neither an event type, nor a prefix followed by `.*`, nor `*`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text == "*" {
            return Ok(Self(text.into()));
        }
        match text.strip_suffix(".*") {
            Some(prefix) => check_segments(prefix)?,
            None => {
                EventTypeName::parse(text)?;
            }
        }
        Ok(Self(text.into()))
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The event type when the pattern names exactly one.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        (!self.0.ends_with('*')).then_some(&*self.0)
    }

    /// Whether an event of type `name` is wanted.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *self.0 == *name,
        }
    }
}

/// A registered event type.
#[derive(Clone, Debug, PartialEq)]
pub struct EventType {
    /// Its name.
    pub name: EventTypeName,
    /// For people.
    pub display_name: String,
    /// What it means.
    pub description: String,
    /// What it belongs with, for people; empty: nothing.
    pub category: String,
    /// The plugin whose catalogue it belongs to.
    pub plugin: Option<String>,
    /// No longer in that catalogue, and kept because subscriptions name it.
    pub retired: bool,
    /// A jq program that makes the payload of what the emitter sends.
    pub transform: Option<Arc<str>>,
    /// JSON Schema (draft 2020-12) of the payload; `None` accepts any object.
    pub payload_schema: Option<serde_json::Value>,
    /// A payload to show and to preview with.
    pub example: Option<serde_json::Value>,
    /// When it was first registered.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl EventType {
    /// A type of which nothing is known but its name.
    #[must_use]
    pub fn new(name: EventTypeName, at: Timestamp) -> Self {
        Self {
            display_name: name.as_str().to_owned(),
            description: String::new(),
            category: String::new(),
            plugin: None,
            retired: false,
            transform: None,
            payload_schema: None,
            example: None,
            created_at: at,
            updated_at: at,
            name,
        }
    }
}

/// An accepted event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its identifier.
    pub id: EventId,
    /// Its registered type.
    pub event_type: EventTypeName,
    /// The payload as accepted: a JSON object as text.
    pub payload: Arc<str>,
    /// When it happened, as the emitter says.
    pub occurred_at: Timestamp,
    /// When the gateway accepted it.
    pub received_at: Timestamp,
    /// Ties follow-up events to the first one.
    pub correlation_key: Option<Arc<str>>,
    /// The systems concerned: of the envelope, the payload's `systemId` and its `systemIds[]`.
    pub system_ids: Vec<String>,
    /// The span under which it was accepted, where its trace is recorded.
    pub trace: Option<TraceParent>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let pattern = EventPattern::parse(pattern).expect("valid");
            assert_eq!(pattern.matches(name), expected, "{pattern:?} {name}");
        };
        check("*", "incident.created", true);
        check("incident.*", "incident.created", true);
        check("incident.*", "incident.comment.added", true);
        check("incident.*", "incidents.created", false);
        check("incident.created", "incident.created", true);
        check("incident.created", "incident.created2", false);
    }

    #[test]
    fn refused_names() {
        for text in [
            "",
            "incident",
            "Incident.created",
            "a..b",
            ".a.b",
            "a.b.",
            "a.*",
        ] {
            assert!(EventTypeName::parse(text).is_err(), "{text}");
        }
        for text in ["", "in*", "*.created", "incident.", "incident.*.x", ".*"] {
            assert!(EventPattern::parse(text).is_err(), "{text}");
        }
    }
}

//! Who a provider says it is.

use serde_json::Value;

/// Who a provider is, what it asks for, and how it is set up. Identifier and version come from
/// [`crate::export!`]; schemas come from the provider's types.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) icon: String,
    pub(crate) events: Vec<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) expose_secrets: bool,
    pub(crate) setup_guide: String,
    pub(crate) example_payload: Option<Value>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) link: Option<String>,
}

impl Description {
    /// A display name, and one sentence on what the provider does.
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: description.into(),
            icon: "plug".into(),
            events: Vec::new(),
            hosts: Vec::new(),
            expose_secrets: false,
            setup_guide: String::new(),
            example_payload: None,
            headers: Vec::new(),
            link: None,
        }
    }

    /// The name of a Lucide icon (<https://lucide.dev/icons>).
    pub fn icon(mut self, icon: impl Into<String>) -> Self {
        self.icon = icon.into();
        self
    }

    /// Adds an event type that the provider is meant for. Without any: all.
    pub fn event(mut self, event_type: impl Into<String>) -> Self {
        self.events.push(event_type.into());
        self
    }

    /// Asks for a host: `[scheme://]host[:port]`, `*.example.com`, `*`, or `{config.url}` and
    /// `{connection.baseUrl}`: the authority of that field's value, or of each of a list's values.
    /// Without a scheme: https.
    pub fn host(mut self, pattern: impl Into<String>) -> Self {
        self.hosts.push(pattern.into());
        self
    }

    /// Asks for [`crate::Context::expose`].
    pub fn expose_secrets(mut self) -> Self {
        self.expose_secrets = true;
        self
    }

    /// How to set it up, in Markdown.
    pub fn setup_guide(mut self, markdown: impl Into<String>) -> Self {
        self.setup_guide = markdown.into();
        self
    }

    /// What the receiver gets, as an example.
    pub fn example_payload(mut self, payload: Value) -> Self {
        self.example_payload = Some(payload);
        self
    }

    /// Documents an HTTP header that the provider sends.
    pub fn header(mut self, name: impl Into<String>, meaning: impl Into<String>) -> Self {
        self.headers.push((name.into(), meaning.into()));
        self
    }

    /// Further reading.
    pub fn link(mut self, url: impl Into<String>) -> Self {
        self.link = Some(url.into());
        self
    }
}

//! A collector of OpenTelemetry's: takes OTLP over HTTP and remembers every span.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message as _;

use crate::PATIENCE;
use crate::receiver::{Received, Receiver};

/// A span as it was exported.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its trace, hexadecimal.
    pub trace: String,
    /// Itself.
    pub id: String,
    /// The one above it; empty at a root.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// `Server`, `Producer`, `Consumer`, `Client` or `Internal`.
    pub kind: SpanKind,
    /// Whether it failed.
    pub is_error: bool,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Those of the process that it is from.
    pub resource: BTreeMap<String, String>,
}

impl Seen {
    /// An attribute, or "".
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// A collector.
pub struct Collector(Receiver);

impl Collector {
    /// Takes everything.
    pub async fn start() -> Self {
        Self(Receiver::ok().await)
    }

    /// What a gateway is told.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.0.address())
    }

    /// The raw requests.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.0.requests()
    }

    /// Every span so far.
    ///
    /// # Panics
    /// When something else than OTLP came.
    #[must_use]
    pub fn spans(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for request in self.0.requests() {
            assert_eq!(request.path, "/v1/traces");
            let export =
                ExportTraceServiceRequest::decode(request.body.clone()).expect("an OTLP request");
            for of_process in export.resource_spans {
                let resource = of_process.resource.map(|resource| resource.attributes);
                let resource = texts(&resource.unwrap_or_default());
                let spans = of_process.scope_spans.into_iter().flat_map(|it| it.spans);
                seen.extend(spans.map(|span| self::seen(&span, &resource)));
            }
        }
        seen
    }

    /// Waits until the spans are as wanted, and returns them.
    ///
    /// # Panics
    /// When they never are.
    pub async fn until(&self, what: &str, wanted: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let spans = self.spans();
                if wanted(&spans) {
                    return spans;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        match waited.await {
            Ok(spans) => spans,
            Err(_) => panic!("waited in vain for {what}; seen: {:#?}", self.spans()),
        }
    }
}

fn seen(span: &Span, resource: &BTreeMap<String, String>) -> Seen {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Seen {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name.clone(),
        kind: span.kind(),
        is_error: span
            .status
            .as_ref()
            .is_some_and(|status| status.code() == StatusCode::Error),
        attributes: texts(&span.attributes),
        resource: resource.clone(),
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &AnyValue| match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.as_ref().map(text).unwrap_or_default();
            (attribute.key.clone(), value)
        })
        .collect()
}

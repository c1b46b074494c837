//! Spans on their way to a collector: OTLP over HTTP, in batches, by a task of its own.
//!
//! The queue in front of that task is bounded; what does not fit is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::runtime::Tokio;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use opentelemetry_sdk::trace::{SpanData, SpanExporter, SpanProcessor as _};
use prometheus_client::metrics::counter::Counter;
use url::Url;

use super::{Recorder, Traces};
use crate::domain::clock::Clock;

/// Variables of OpenTelemetry's specification, which win over the file:
/// <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.
const ENDPOINT_VARIABLES: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
/// Set to `true`, it switches everything off.
const DISABLED_VARIABLE: &str = "OTEL_SDK_DISABLED";
/// What the path of traces is below an endpoint that is for all signals.
const TRACES_PATH: &str = "v1/traces";
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// How to record and where to send.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector's endpoint for all signals: `http://collector:4318`.
    pub endpoint: Option<String>,
    /// `service.name`, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` has one.
    pub service_name: String,
    /// Which of the processes this is.
    pub instance: String,
    /// Of the traces that begin here, so many are recorded: 0.0 to 1.0.
    pub sample_ratio: f64,
    /// Whether receivers get a `traceparent`.
    pub propagate: bool,
}

/// Traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The endpoint is wrong. It is not repeated.
    #[error("telemetry.otlp_endpoint: {0}")]
    Endpoint(&'static str),
    /// The exporter refuses what the environment says.
    #[error("the exporter of traces cannot be set up: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Spans that left, and spans that did not.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// Taken by the collector.
    pub sent: Counter,
    /// Lost as the collector did not take them.
    pub failed: Counter,
}

impl Traces {
    /// Records spans and sends them, where an endpoint is configured or the environment names one;
    /// else records nothing.
    ///
    /// # Errors
    /// When endpoint or environment cannot be used. Whether somebody is there is not asked.
    pub fn start(
        settings: Settings,
        exported: Exported,
        clock: Arc<dyn Clock>,
        random: fn() -> u128,
    ) -> Result<Self, SetupError> {
        let Some(endpoint) = endpoint(settings.endpoint.as_deref(), |name| {
            std::env::var(name).ok()
        })?
        else {
            return Ok(Self::default());
        };
        let exporter = Watched {
            exporter: exporter(&endpoint)?,
            exported,
            failing: AtomicBool::new(false),
        };
        let mut processor = BatchSpanProcessor::builder(exporter, Tokio).build();
        processor.set_resource(&resource(&settings));
        let scope = InstrumentationScope::builder("hookport")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Ok(Self::recording(Recorder {
            processor: Box::new(processor),
            scope,
            clock,
            random,
            sample_ratio: settings.sample_ratio,
            propagate: settings.propagate,
        }))
    }
}

/// Reads timeout and headers from the variables of the specification.
fn exporter(endpoint: &Url) -> Result<OtlpExporter, SetupError> {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(OtlpExporter::builder()
        .with_http()
        .with_endpoint(endpoint.as_str())
        .build()?)
}

/// Where traces go: the environment's word first.
fn endpoint(
    configured: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Url>, SetupError> {
    if variable(DISABLED_VARIABLE).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let [for_traces, for_all] = ENDPOINT_VARIABLES;
    // The one for traces is taken as it is; below the other the path is fixed.
    let (text, whole) = match set(for_traces) {
        Some(text) => (text, true),
        None => match set(for_all).or_else(|| configured.map(str::to_owned)) {
            Some(text) => (text, false),
            None => return Ok(None),
        },
    };
    let mut url = Url::parse(&text)
        .map_err(|_| SetupError::Endpoint("not a URL: give http://collector:4318"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(SetupError::Endpoint(
            "give http or https: OTLP over gRPC is not spoken",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SetupError::Endpoint(
            "credentials go into OTEL_EXPORTER_OTLP_HEADERS, not into the URL",
        ));
    }
    if !whole {
        let path = format!("{}/{TRACES_PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(Some(url))
}

/// Who says so; what the environment says of it wins.
fn resource(settings: &Settings) -> Resource {
    let said = [
        KeyValue::new("service.name", settings.service_name.clone()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", settings.instance.clone()),
    ];
    let builder = Resource::builder_empty()
        .with_attributes(said)
        .with_detector(Box::new(EnvResourceDetector::new()));
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => builder.with_service_name(name),
        _ => builder,
    }
    .build()
}

/// Counts what leaves, and says once when a collector goes and once when it is back.
#[derive(Debug)]
struct Watched<E> {
    exporter: E,
    exported: Exported,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) => {
                self.exported.sent.inc_by(spans);
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the collector takes traces again");
                }
            }
            Err(error) => {
                self.exported.failed.inc_by(spans);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        error = words(error),
                        "the collector does not take traces; they are lost meanwhile, and nothing else is"
                    );
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The exporter's errors may quote headers of the environment; their kind does not.
fn words(error: &OTelSdkError) -> &'static str {
    match error {
        OTelSdkError::Timeout(_) => "no answer in time",
        OTelSdkError::AlreadyShutdown => "shut down",
        OTelSdkError::InternalFailure(_) => "not reachable, or it refused",
    }
}

/// Whether the collector takes a request without spans, for `hookport doctor`; `None`: none is
/// configured.
///
/// # Errors
/// What to mend.
pub async fn probe(configured: Option<&str>) -> Result<Option<String>, String> {
    let url = endpoint(configured, |name| std::env::var(name).ok());
    let Some(url) = url.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let at = url.origin().ascii_serialization();
    let exporter = exporter(&url).map_err(|error| error.to_string())?;
    match tokio::time::timeout(PROBE_TIMEOUT, exporter.export(Vec::new())).await {
        Ok(Ok(())) => Ok(Some(format!("{at} takes traces"))),
        Ok(Err(error)) => Err(format!(
            "{at}: {}; is it a collector with OTLP over HTTP (port 4318)?",
            words(&error)
        )),
        Err(_) => Err(format!("{at}: no answer within {PROBE_TIMEOUT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        configured: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<String>, String> {
        endpoint(configured, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .map(|url| url.map(|url| url.to_string()))
        .map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_wins_and_paths_are_as_the_specification_says() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://b:4318/base/");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/mine");
        let text = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(chosen(None, &[]), Ok(None));
        assert_eq!(
            chosen(Some("http://a:4318"), &[]),
            text("http://a:4318/v1/traces")
        );
        assert_eq!(
            chosen(Some("http://a:4318"), &[all]),
            text("https://b:4318/base/v1/traces")
        );
        assert_eq!(chosen(None, &[all, traces]), text("http://c/mine"));
        assert_eq!(
            chosen(Some("http://a"), &[("OTEL_SDK_DISABLED", "TRUE")]),
            Ok(None)
        );
        assert_eq!(
            chosen(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]),
            Ok(None)
        );
    }

    #[test]
    fn a_wrong_endpoint_is_refused_and_not_repeated() {
        for wrong in [
            "collector:4318",
            "nonsense",
            "grpc://c",
            "http://user:pass-55@c:4318",
        ] {
            let error = chosen(Some(wrong), &[]).expect_err("refused");
            assert!(error.starts_with("telemetry.otlp_endpoint"), "{error}");
            assert!(
                !error.contains(wrong) && !error.contains("pass-55"),
                "{error}"
            );
        }
    }
}

//! What is seen of every request: an identifier for the log, its route and status for the metrics.
//!
//! Invariant: nothing of a request but its method, its route's pattern and its identifier is
//! written anywhere; a path, a query and headers may hold what is nobody else's business.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::trace::SpanKind;
use tracing::Instrument as _;

use super::Shared;
use crate::domain::id::RequestId;
use crate::domain::trace::TraceParent;
use crate::telemetry::{self, Span};

/// Names a request, in both directions.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest identifier that is taken from a caller, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;
/// The caller's trace.
const TRACE_PARENT: &str = "traceparent";
/// Ends of routes whose requests are not traced.
const UNTRACED: [&str; 4] = ["/health", "/livez", "/readyz", "/metrics"];
/// The route of what matched none.
const UNMATCHED: &str = "unmatched";

/// Wraps every route.
pub(super) async fn observe(
    State(api): State<Shared>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let id = given_id(request.headers()).unwrap_or_else(|| {
        let id: RequestId = api.ids.next(api.clock.now());
        id.to_string()
    });
    let header = HeaderValue::from_str(&id).ok();
    if let Some(header) = &header {
        // The audit trail has it from there.
        request.headers_mut().insert(REQUEST_ID, header.clone());
    }
    let method = method(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let requests = &api.accepter.metrics.requests;
    let under_way = requests.begun();
    let span = tracing::info_span!("request", request_id = id, method, route);
    let mut traced = server_span(&api, request.headers(), method, route);
    let work = telemetry::under(traced.as_ref(), next.run(request));
    let mut response = work.instrument(span.clone()).await;
    drop(under_way);
    let status = response.status().as_u16();
    if let Some(traced) = &mut traced {
        traced.set("http.response.status_code", i64::from(status));
        if status >= 500 {
            traced.fail(status.to_string());
        }
    }
    requests.answered(method, route, status, begun.elapsed());
    span.in_scope(|| tracing::debug!(status, "answered"));
    if let Some(header) = header {
        response.headers_mut().insert(REQUEST_ID, header);
    }
    response
}

/// Continues the caller's trace, where it has one and wants it recorded. What monitoring asks over
/// and over begins none.
fn server_span(
    api: &Shared,
    headers: &HeaderMap,
    method: &'static str,
    route: &str,
) -> Option<Span> {
    if !api.traces.is_on() || UNTRACED.iter().any(|untraced| route.ends_with(untraced)) {
        return None;
    }
    let parent = headers
        .get(TRACE_PARENT)
        .and_then(|value| value.to_str().ok());
    let parent = parent.and_then(|text| text.parse::<TraceParent>().ok());
    let name = format!("{method} {route}");
    let mut span = api.traces.begin(parent, SpanKind::Server, name)?;
    span.set("http.request.method", method);
    span.set("http.route", route.to_owned());
    Some(span)
}

/// The caller's own identifier, where it is fit for a log.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(&REQUEST_ID)?.to_str().ok()?;
    let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    fits.then(|| text.to_owned())
}

/// A method as a label: callers can make up others without end.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_taken_from_a_caller_only_where_it_is_fit_for_a_log() {
        let check = |text: &str, taken: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(text).expect("a header"));
            assert_eq!(given_id(&headers).is_some(), taken, "{text:?}");
        };
        check("9f8c-abc_1.2:3", true);
        check("", false);
        check("two words", false);
        check("{\"level\":\"ERROR\"}", false);
        check(&"a".repeat(REQUEST_ID_BYTES_MAX), true);
        check(&"a".repeat(REQUEST_ID_BYTES_MAX + 1), false);
    }
}

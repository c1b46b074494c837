//! `wasi:http/outgoing-handler` over the same egress, policy, counters and caps as our own
//! import.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::HeaderName;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody,
    WasiHttpHooks,
};

use super::state::CallShared;
use crate::egress::{EgressBody, EgressError, EgressRequest};

/// Beside wasmtime's own list: what proxies trust, and what would let a guest pose as one.
const FORBIDDEN_HEADERS: [&str; 6] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// The hooks of one call.
pub(super) struct Hooks {
    shared: Arc<CallShared>,
}

impl Hooks {
    pub(super) fn new(shared: Arc<CallShared>) -> Self {
        Self { shared }
    }
}

/// Whether a guest may not set this header.
pub(super) fn is_forbidden(name: &HeaderName) -> bool {
    DEFAULT_FORBIDDEN_HEADERS.contains(name) || FORBIDDEN_HEADERS.contains(&name.as_str())
}

type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for Hooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(is_forbidden)
    }

    // The egress sets it from the URL that was checked.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let shared = self.shared.clone();
        Box::new(async move { send(&shared, request, options).await })
    }
}

async fn send(
    shared: &Arc<CallShared>,
    request: http::Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<Sent, Error> {
    shared
        .count_http_call()
        .map_err(|_| Error::ConnectionLimitReached)?;
    shared.turns.end();
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    headers.remove(http::header::HOST);
    let request = EgressRequest {
        method: parts.method,
        url: parts.uri.to_string(),
        headers,
        body: EgressBody::Stream(capped_body(shared.clone(), body)),
        follow_redirects: false,
    };
    let timeout = options.and_then(|options| options.first_byte_timeout);
    shared.await_answer();
    let sent = shared.send(shared.egress_limits(timeout), request).await;
    let response = sent.map_err(|error| refuse(shared, &error))?;
    shared.saw_status(response.status.as_u16());

    let mut head = http::Response::builder()
        .status(response.status)
        .body(())
        .map_err(|_| Error::HttpProtocolError)?;
    *head.headers_mut() = masked_headers(shared, response.headers);
    let for_body = shared.clone();
    let body = if shared.has_secrets() {
        // A secret may straddle two chunks: the body is taken whole, within its cap.
        let whole = response
            .body
            .try_fold(Vec::new(), |mut whole, chunk| async move {
                whole.extend_from_slice(&chunk);
                Ok(whole)
            })
            .await
            .map_err(|error| refuse(shared, &error))?;
        let masked = Bytes::from(shared.mask_bytes(whole));
        http_body_util::Full::new(masked)
            .map_err(|never| match never {})
            .boxed_unsync()
    } else {
        let frames = response
            .body
            .map_ok(http_body::Frame::data)
            .map_err(move |error| refuse(&for_body, &error));
        StreamBody::new(frames).boxed_unsync()
    };
    Ok((head.map(|()| body), Box::new(async { Ok(()) })))
}

fn masked_headers(shared: &CallShared, headers: http::HeaderMap) -> http::HeaderMap {
    if !shared.has_secrets() {
        return headers;
    }
    let mut masked = http::HeaderMap::with_capacity(headers.len());
    for (name, value) in &headers {
        let value = shared.mask_bytes(value.as_bytes().to_vec());
        if let Ok(value) = http::HeaderValue::from_bytes(&value) {
            masked.append(name.clone(), value);
        }
    }
    masked
}

/// The guest's body as it comes, ended with an error at the cap.
fn capped_body(
    shared: Arc<CallShared>,
    body: WasiBody,
) -> futures_util::stream::BoxStream<'static, std::io::Result<Bytes>> {
    let mut left = shared.context.limits.request_bytes_max;
    BodyStream::new(body)
        .filter_map(|frame| async move {
            match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(std::io::Error::other(error.to_string()))),
            }
        })
        .map(move |chunk| {
            let chunk: Bytes = chunk?;
            match left.checked_sub(chunk.len()) {
                Some(rest) => {
                    left = rest;
                    Ok(chunk)
                }
                None => {
                    let max = shared.context.limits.request_bytes_max;
                    shared.limit(format!("a request body is larger than {max} bytes"));
                    Err(std::io::Error::other("request body too large"))
                }
            }
        })
        .boxed()
}

/// Books the refusal and words it for the guest.
fn refuse(shared: &CallShared, error: &EgressError) -> Error {
    shared.book(error);
    match error {
        EgressError::Denied(text) if text.contains("prohibited address") => {
            Error::DestinationIpProhibited
        }
        EgressError::Denied(_) => Error::HttpRequestDenied,
        EgressError::Invalid(_) => Error::HttpRequestUriInvalid,
        EgressError::Limit(_) => Error::HttpResponseBodySize(None),
        EgressError::Network(_) => Error::DestinationUnavailable,
        EgressError::Timeout(_) => Error::HttpResponseTimeout,
    }
}

//! Every byte that leaves for a provider.
//!
//! Invariant: no connection is opened to an address that the policy of the request has not
//! passed, and no request is sent to an authority that the policy does not name, whichever of
//! the two HTTP imports it comes from, and after each redirect.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;

pub mod address;
pub mod client;
pub mod pattern;
pub mod preview;

pub use client::{Egress, EgressConfig};
pub use pattern::HostPattern;
pub use preview::Preview;

/// Where one provider's call may go.
#[derive(Clone, Debug)]
pub struct EgressPolicy {
    /// Whose call it is: pools are kept apart by this and by `allow_addresses`.
    pub provider: crate::domain::provider::ProviderId,
    /// Authorities granted, field references already resolved.
    pub hosts: Vec<HostPattern>,
    /// Prohibited networks that are allowed all the same.
    pub allow_addresses: std::sync::Arc<[ipnet::IpNet]>,
}

/// What one exchange may cost.
#[derive(Clone, Copy, Debug)]
pub struct EgressLimits {
    /// From the first byte sent to the last one received.
    pub timeout: Duration,
    /// Of the response body, after content decoding.
    pub response_bytes_max: usize,
    /// Of the response's header names and values, summed.
    pub response_header_bytes_max: usize,
}

/// A request ready to go: secrets are filled in.
#[derive(Debug)]
pub struct EgressRequest {
    /// Any but CONNECT.
    pub method: http::Method,
    /// Absolute, as written by the guest: checked here, not by the caller.
    pub url: String,
    /// Hop-by-hop headers and `host` are refused.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: EgressBody,
    /// Follow redirects, each one checked anew, at most five.
    pub follow_redirects: bool,
}

/// The body of a request.
pub enum EgressBody {
    /// Whole: can be sent again after a 307.
    Bytes(Bytes),
    /// As it comes (`wasi:http`); a redirect that needs it again ends with that redirect's answer.
    Stream(BoxStream<'static, Result<Bytes, std::io::Error>>),
}

impl std::fmt::Debug for EgressBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// The answer, its body still under way and capped while it streams.
pub struct EgressResponse {
    /// The status.
    pub status: http::StatusCode,
    /// The headers; `content-encoding` and `content-length` removed where the body was decoded.
    pub headers: http::HeaderMap,
    /// The decoded body. Ends with [`EgressError::Limit`] or [`EgressError::Timeout`] when a cap
    /// is met.
    pub body: BoxStream<'static, Result<Bytes, EgressError>>,
}

impl EgressError {
    /// The kind in a word, for figures and traces.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Invalid(_) => "invalid",
            Self::Limit(_) => "limit",
            Self::Network(_) => "network",
            Self::Timeout(_) => "timeout",
        }
    }
}

/// Why an exchange failed. Messages name hosts and addresses, never headers, paths, queries or
/// bodies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// The authority is not granted, or its address is prohibited.
    #[error("denied: {0}")]
    Denied(String),
    /// The request cannot be sent as it is.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// A size cap was met.
    #[error("limit: {0}")]
    Limit(String),
    /// Name resolution, connection, TLS or protocol.
    #[error("network: {0}")]
    Network(String),
    /// The exchange took longer than allowed.
    #[error("timed out after {0:?}")]
    Timeout(Duration),
}

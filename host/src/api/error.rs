//! Errors as RFC 9457 problem documents: the only place that knows HTTP statuses.

use std::any::Any;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::dispatch::AcceptError;
use crate::domain::schema::Violation;
use crate::ingress::Refusal;
use crate::queue::broker::BrokerError;
use crate::store::StoreError;
use crate::vault::VaultError;

/// Seconds after which a caller may try again when a back end is away.
const UNAVAILABLE_RETRY_AFTER_S: u16 = 2;

/// A problem document.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status again.
    status: u16,
    /// The kind as a stable code.
    code: &'static str,
    /// What happened here, and what to do.
    detail: String,
    /// What is wrong, field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FieldProblem {
    /// JSON Pointer (RFC 6901) into the request's body.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// An answer that is not what the caller hoped for.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    errors: Vec<FieldProblem>,
    retry_after_s: Option<u16>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            title,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
        }
    }

    /// The body is not JSON.
    pub fn malformed_json(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed_json",
            "The body is not JSON",
            detail,
        )
    }

    /// One field is wrong.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldProblem {
            field: field.into(),
            message: message.into(),
        }])
    }

    /// Fields are wrong.
    pub fn fields(errors: Vec<FieldProblem>) -> Self {
        let detail = errors.first().map_or(String::new(), |first| {
            format!("{}: {}", first.field, first.message)
        });
        Self {
            errors,
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "validation",
                "The request is not valid",
                detail,
            )
        }
    }

    /// The same, its fields below `prefix`.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        for problem in &mut self.errors {
            problem.field.insert_str(0, prefix);
        }
        self
    }

    /// Violations of a schema below `prefix`.
    pub fn violations(prefix: &str, violations: Vec<Violation>) -> Self {
        let problem = |violation: Violation| FieldProblem {
            field: format!("{prefix}{}", violation.pointer),
            message: violation.message,
        };
        Self::fields(violations.into_iter().map(problem).collect())
    }

    /// No key, or one that is not known.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "An API key is needed",
            "send Authorization: Bearer with a key that is not revoked",
        )
    }

    /// The key's role does not reach.
    pub fn forbidden(needed: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "The key may not do this",
            format!("this needs a key with the role {needed}"),
        )
    }

    /// Too much was asked for.
    pub fn too_many(detail: impl Into<String>, retry_after_ms: u64) -> Self {
        Self {
            retry_after_s: Some(
                u16::try_from(retry_after_ms.div_ceil(1_000))
                    .unwrap_or(u16::MAX)
                    .max(1),
            ),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "Too many requests",
                detail,
            )
        }
    }

    /// There is no such thing.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "Not found",
            format!("there is no {what}"),
        )
    }

    /// The path knows other methods.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "The path does not know this method",
            "see /api/v1/openapi.json for the methods of each path",
        )
    }

    /// Something stands in the way.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "conflict",
            "Something stands in the way",
            detail,
        )
    }

    /// The body is too large.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload_too_large",
            "The body is too large",
            detail,
        )
    }

    /// The body did not arrive in time.
    pub fn request_timeout(limit: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "The body did not arrive",
            format!("the whole body must arrive within {limit:?}"),
        )
    }

    /// The body is no JSON by its own word.
    pub fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "The body must be JSON",
            "send Content-Type: application/json",
        )
    }

    /// An idempotency key came with another body before.
    pub fn idempotency_key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "The idempotency key was used for another request",
            "a key stands for one body: send the same body, or another key",
        )
    }

    /// A back end is away.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self {
            retry_after_s: Some(UNAVAILABLE_RETRY_AFTER_S),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "A back end is unavailable",
                detail,
            )
        }
    }

    fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong here",
            "the gateway's log has more",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: format!(
                "https://hookport.dev/problems/{}",
                self.code.replace('_', "-")
            ),
            title: self.title,
            status: self.status.as_u16(),
            code: self.code,
            detail: self.detail,
            errors: self.errors,
        };
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == "unauthorized" {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(detail) => Self::conflict(detail),
            StoreError::Unavailable(source) => {
                tracing::error!(error = %source, "the store is unavailable");
                Self::unavailable(
                    "the store did not answer: what was asked for may have been done or not",
                )
            }
            StoreError::Full(source) => {
                tracing::error!(error = %source, "the store's disk is full");
                Self {
                    retry_after_s: Some(UNAVAILABLE_RETRY_AFTER_S),
                    ..Self::new(
                        StatusCode::INSUFFICIENT_STORAGE,
                        "storage_full",
                        "There is no room for more",
                        "the disk of the store is full; nothing was changed: an operator has to make room",
                    )
                }
            }
            StoreError::Corrupt(what) => {
                tracing::error!(%what, "stored data cannot be read");
                Self::internal()
            }
        }
    }
}

impl From<BrokerError> for ApiError {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Store(error) => error.into(),
            BrokerError::Away(source) => {
                let source = source.map(|source| source.to_string());
                tracing::warn!(source, "the broker is away");
                Self::unavailable(
                    "the broker does not answer; deliveries go on, claimed from the store",
                )
            }
        }
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        match &error {
            VaultError::Smuggled(pointer) => Self::field(pointer, "a secret is a plain string"),
            VaultError::UnknownKey { .. } | VaultError::Tampered(_) => {
                Self::conflict(error.to_string())
            }
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::UnknownSource(name) => Self::not_found(format!("source {name:?}")),
            Refusal::Disabled => Self::new(
                StatusCode::FORBIDDEN,
                "source_disabled",
                "The source is switched off",
                "switch it on, or stop sending",
            ),
            Refusal::RateLimited { retry_after_ms } => Self::too_many(detail, retry_after_ms),
            Refusal::Unverified(reason) => Self::new(
                StatusCode::UNAUTHORIZED,
                "unverified",
                "The webhook could not be verified",
                reason,
            ),
            Refusal::Vault(error) => {
                tracing::error!(%error, "a source's secret cannot be opened");
                Self::unavailable("the source's secrets cannot be opened")
            }
            Refusal::Store(error) => error.into(),
        }
    }
}

impl From<AcceptError> for ApiError {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Invalid { violations, .. } => Self::violations("", violations),
            AcceptError::Store(error) => error.into(),
        }
    }
}

/// The answer to a request whose handler panicked.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = said, "a request panicked");
    ApiError::internal().into_response()
}

//! Whether the gateway and what it depends on work. Needs no key and tells no more than that.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::auth::Read;
use crate::metrics::Backlog;
use crate::store::StoreError;

/// A store that does not answer within this is down.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Counting stops here.
const BACKLOG_COUNTED_MAX: u64 = 10_000;

/// A dependency beside the store, with a question that answers at once.
#[derive(Clone)]
pub struct HealthCheck {
    /// Its name.
    pub name: &'static str,
    /// `Err` with what is wrong.
    pub check: Arc<dyn Fn() -> Result<String, String> + Send + Sync>,
}

/// A dependency.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DependencyView {
    name: &'static str,
    /// `ok` or `failing`.
    status: &'static str,
    detail: String,
}

/// The gateway's health.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthView {
    /// `ok` or `degraded`.
    status: &'static str,
    version: &'static str,
    dependencies: Vec<DependencyView>,
}

/// The process answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LivenessView {
    /// `ok`.
    status: &'static str,
}

/// Whether the process takes work.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReadinessView {
    /// `ready` or `not_ready`.
    status: &'static str,
    /// What stands in the way.
    reason: Option<&'static str>,
}

/// What this process counts and measures, for Prometheus (OpenMetrics text)
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(api): State<Shared>, _: Read) -> Response {
    // Without the store the rest is what an operator wants to see.
    let backlog = match tokio::time::timeout(CHECK_TIMEOUT, backlog(&api)).await {
        Ok(Ok(backlog)) => Some(backlog),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store cannot say what waits");
            None
        }
        Err(_) => None,
    };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = api.accepter.metrics.text(backlog);
    ([(CONTENT_TYPE, kind)], text).into_response()
}

async fn backlog(api: &Shared) -> Result<Backlog, StoreError> {
    let waiting = api.store.backlog(BACKLOG_COUNTED_MAX).await?;
    let oldest = api.store.oldest_due().await?;
    Ok(Backlog {
        waiting,
        lag: oldest.map_or(Duration::ZERO, |due| api.clock.now().since(due)),
    })
}

/// Health, with each dependency
#[utoipa::path(get, path = "/health", tag = "health", security(()),
    responses((status = 200, body = HealthView), (status = 503, body = HealthView)))]
pub(super) async fn health(State(api): State<Shared>) -> (StatusCode, Json<HealthView>) {
    let asked = async {
        api.store.ping().await?;
        api.store.backlog(BACKLOG_COUNTED_MAX).await
    };
    let store = match tokio::time::timeout(CHECK_TIMEOUT, asked).await {
        Ok(Ok(waiting)) => Ok(format!("{waiting} deliveries waiting or in flight")),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store fails its health check");
            Err("does not answer".to_owned())
        }
        Err(_) => Err(format!("no answer within {CHECK_TIMEOUT:?}")),
    };
    let checks = api.checks.iter().map(|check| (check.name, (check.check)()));
    let dependencies: Vec<DependencyView> = std::iter::once(("store", store))
        .chain(checks)
        .map(|(name, answer)| DependencyView {
            name,
            status: if answer.is_ok() { "ok" } else { "failing" },
            detail: answer.unwrap_or_else(|problem| problem),
        })
        .collect();
    let ok = dependencies
        .iter()
        .all(|dependency| dependency.status == "ok");
    let view = HealthView {
        status: if ok { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        dependencies,
    };
    (
        if ok {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        Json(view),
    )
}

/// Whether the process answers at all
#[utoipa::path(get, path = "/livez", tag = "health", security(()), responses((status = 200, body = LivenessView)))]
pub(super) async fn livez() -> Json<LivenessView> {
    Json(LivenessView { status: "ok" })
}

/// Whether the process takes work: for load balancers
///
/// Not ready while the store does not answer, and from the moment the process is told to stop,
/// before it closes its listener. What else may fail is in `/health` and is no reason to send
/// callers elsewhere.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = ReadinessView), (status = 503, body = ReadinessView)))]
pub(super) async fn readyz(State(api): State<Shared>) -> (StatusCode, Json<ReadinessView>) {
    let reason = if *api.stopping.borrow() {
        Some("the gateway is shutting down")
    } else {
        match tokio::time::timeout(CHECK_TIMEOUT, api.store.ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) | Err(_) => Some("the store does not answer"),
        }
    };
    let (code, status) = match reason {
        None => (StatusCode::OK, "ready"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    (code, Json(ReadinessView { status, reason }))
}

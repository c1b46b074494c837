//! Whether the gateway and what it depends on work. Needs no key and tells no more than that.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;

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

/// Health, with each dependency
#[utoipa::path(get, path = "/health", tag = "health", security(()),
    responses((status = 200, body = HealthView), (status = 503, body = HealthView)))]
pub(super) async fn health(State(api): State<Shared>) -> (StatusCode, Json<HealthView>) {
    let store = match api.store.ping().await {
        Ok(()) => match api.store.backlog(10_000).await {
            Ok(waiting) => Ok(format!("{waiting} deliveries waiting or in flight")),
            Err(_) => Err("does not answer".to_owned()),
        },
        Err(_) => Err("does not answer".to_owned()),
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
#[utoipa::path(get, path = "/livez", tag = "health", security(()), responses((status = 204)))]
pub(super) async fn livez() -> StatusCode {
    StatusCode::NO_CONTENT
}

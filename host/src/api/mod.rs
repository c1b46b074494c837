//! The HTTP API: one resource a file, holding its shapes, its documentation and its handlers.

mod audit;
mod auth;
mod connections;
mod dead_letter_runs;
mod dead_letters;
mod deliveries;
mod error;
mod event_types;
mod events;
mod extract;
mod flow;
mod health;
mod jobs;
mod keys;
mod observe;
mod page;
mod plugins;
mod providers;
mod queues;
mod replays;
mod sources;
mod subscriptions;
mod trials;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::dispatch::{Accepter, DeadLetters, Ids, Replayer, Snapshots};
use crate::domain::clock::Clock;
use crate::ingress::Ingress;
use crate::plugin::Providers;
use crate::queue::Queue;
use crate::queue::broker::Broker;
use crate::store::Store;
use crate::telemetry::Traces;
use crate::vault::Vault;

pub use auth::{NewKey, new_key};
pub use error::ApiError;
pub use health::HealthCheck;
pub use keys::KeyView;

/// Bodies of everything but events.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What the handlers work with.
pub struct Api {
    /// The system of record.
    pub store: Arc<dyn Store>,
    /// Whom to wake.
    pub queue: Arc<dyn Queue>,
    /// The broker, where there is one.
    pub broker: Option<Arc<dyn Broker>>,
    /// What is configured.
    pub snapshots: Arc<Snapshots>,
    /// Where webhooks go.
    pub ingress: Arc<Ingress>,
    /// Proxies whose word on where a request comes from is taken.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Where events go.
    pub accepter: Arc<Accepter>,
    /// What delivers events again.
    pub replayer: Arc<Replayer>,
    /// What requeues and discards dead letters in bulk.
    pub dead_letters: Arc<DeadLetters>,
    /// The installed providers.
    pub providers: Arc<dyn Providers>,
    /// What seals secrets.
    pub vault: Arc<Vault>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Identifiers.
    pub ids: Arc<Ids>,
    /// What health asks beside the store.
    pub checks: Vec<HealthCheck>,
    /// Where requests are traced.
    pub traces: Traces,
    /// Turns true when the gateway takes no new work.
    pub stopping: tokio::sync::watch::Receiver<bool>,
    /// Largest body of one event, in bytes.
    pub event_bytes_max: usize,
    /// Largest body of a batch, in bytes.
    pub batch_bytes_max: usize,
}

type Shared = Arc<Api>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hookport",
        description = "Events in, subscriptions route them, sandboxed providers carry them out. Errors are RFC 9457 problem documents.",
        license(name = "Apache-2.0")
    ),
    modifiers(&BearerKey),
    security(("key" = []))
)]
struct Document;

struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key: hp_…"))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(event_types::list))
        .routes(routes!(
            event_types::put,
            event_types::get,
            event_types::delete
        ))
        .routes(routes!(event_types::list_paths))
        .routes(routes!(plugins::put))
        .routes(routes!(events::emit, events::list))
        .routes(routes!(events::get))
        .routes(routes!(replays::replay_event))
        .routes(routes!(replays::create, replays::list))
        .routes(routes!(replays::get))
        .routes(routes!(replays::cancel))
        .routes(routes!(subscriptions::create, subscriptions::list))
        .routes(routes!(
            subscriptions::get,
            subscriptions::replace,
            subscriptions::delete
        ))
        .routes(routes!(subscriptions::pause))
        .routes(routes!(subscriptions::resume))
        .routes(routes!(subscriptions::enable))
        .routes(routes!(subscriptions::disable))
        .routes(routes!(trials::preview_stored))
        .routes(routes!(trials::preview_draft))
        .routes(routes!(trials::send_test_event))
        .routes(routes!(providers::list))
        .routes(routes!(providers::get))
        .routes(routes!(providers::grant))
        .routes(routes!(providers::options))
        .routes(routes!(connections::create, connections::list))
        .routes(routes!(
            connections::get,
            connections::replace,
            connections::delete
        ))
        .routes(routes!(connections::test))
        .routes(routes!(sources::create, sources::list))
        .routes(routes!(sources::get, sources::replace, sources::delete))
        .routes(routes!(sources::rotate))
        .routes(routes!(sources::rejections))
        .routes(routes!(webhooks::receive))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::get))
        .routes(routes!(webhooks::retry))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::get))
        .routes(routes!(deliveries::retry))
        .routes(routes!(queues::list))
        .routes(routes!(queues::dead))
        .routes(routes!(queues::drain))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::get))
        .routes(routes!(dead_letters::requeue))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(dead_letter_runs::requeue_all))
        .routes(routes!(dead_letter_runs::discard_all))
        .routes(routes!(dead_letter_runs::list_runs))
        .routes(routes!(dead_letter_runs::get_run))
        .routes(routes!(dead_letter_runs::cancel_run))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(audit::head))
        .routes(routes!(health::health))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// The OpenAPI document, as served and as kept in `host/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    let router =
        OpenApiRouter::with_openapi(utoipa::openapi::OpenApi::default()).nest("/api/v1", routes());
    let (_, mut document) = router.split_for_parts();
    document.info = Document::openapi().info;
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// The whole API.
pub fn router(api: Shared) -> Router {
    let (v1, _) = routes().split_for_parts();
    let document: Arc<str> = openapi().into();
    let v1 = v1.route(
        "/openapi.json",
        get(move || async move {
            (
                [(axum::http::header::CONTENT_TYPE, "application/json")],
                document.to_string(),
            )
        }),
    );
    finished(v1, api)
}

/// What a process answers that only delivers.
pub fn health_router(api: Shared) -> Router {
    let routes = OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics));
    finished(routes.split_for_parts().0, api)
}

fn finished(v1: Router<Shared>, api: Shared) -> Router {
    Router::new()
        .nest("/api/v1", v1)
        .fallback(|| async { ApiError::not_found("this path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(from_fn_with_state(api.clone(), observe::observe))
        .with_state(api)
}

/// Serves until `stop` resolves, then lets requests under way end, for `drain` at most.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: tokio::net::TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) -> std::io::Result<()> {
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
    });
    let (stopped, mut stopping) = tokio::sync::watch::channel(false);
    let signal = async move {
        stop.await;
        let _ = stopped.send(true);
    };
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let serving = axum::serve(listener, service).with_graceful_shutdown(signal);
    let cut_off = async move {
        let _ = stopping.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        ended = serving => ended,
        () = cut_off => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_golden_openapi_file_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, super::openapi()).expect("written");
        }
        let golden = std::fs::read_to_string(path).expect("host/openapi.json");
        assert!(
            golden == super::openapi(),
            "host/openapi.json is out of date: run UPDATE_GOLDEN=1 cargo test -p hookport --lib golden"
        );
    }
}

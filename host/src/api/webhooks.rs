//! Inbound webhooks: taking them, and the log of those that were verified.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::Json;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{Extensions, HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Operate, Read};
use super::error::{ApiError, Problem};
use super::extract::{self, Id};
use super::page::{Items, PageParams, Query};
use super::sources::find;
use crate::domain::clock::rfc3339;
use crate::domain::id::WebhookId;
use crate::domain::source::{InboundWebhook, WebhookState};
use crate::ingress::{Incoming, Receipt};
use crate::store::WebhookFilter;

/// What became of a webhook.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReceiptView {
    webhook_id: String,
    /// `accepted`, `duplicate`, `ignored` or `failed`.
    state: &'static str,
    /// Its events, accepted now or before.
    event_ids: Vec<String>,
    /// Why it was ignored or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn answer(receipt: Receipt) -> (StatusCode, Json<ReceiptView>) {
    let status = match receipt.state {
        WebhookState::Duplicate | WebhookState::Ignored => StatusCode::OK,
        // One that failed is on record as well: the sender has done its part.
        WebhookState::Accepted | WebhookState::Failed => StatusCode::ACCEPTED,
    };
    let view = ReceiptView {
        webhook_id: receipt.id.to_string(),
        state: receipt.state.as_str(),
        event_ids: receipt.events.iter().map(ToString::to_string).collect(),
        reason: receipt.reason,
    };
    (status, Json(view))
}

/// Send a webhook
///
/// Verified as the source is set up, over the bytes as they come; needs no API key. 202 when its
/// events are durable, 200 when they were accepted before.
#[utoipa::path(post, path = "/webhooks/{source}", tag = "sources", params(("source" = String, Path, description = "The source's name")),
    request_body(content = Vec<u8>, content_type = "*/*"), security(()),
    responses((status = 202, body = ReceiptView), (status = 200, body = ReceiptView), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 413, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn receive(
    State(api): State<Shared>,
    Path(name): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<ReceiptView>), ApiError> {
    let from = remote_address(&api, request.headers(), request.extensions());
    let open = api.ingress.admit(&name, from).await?;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let headers = request.headers().clone();
    let body = extract::raw(request, api.event_bytes_max).await?;
    let incoming = Incoming {
        remote_address: from,
        query,
        headers,
        body,
    };
    Ok(answer(api.ingress.receive(&open, incoming).await?))
}

/// Where a request comes from: the peer, or what proxies that the operator trusts say of it.
fn remote_address(api: &Shared, headers: &HeaderMap, extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |info| info.0.ip());
    let trusted = |address: &IpAddr| {
        let address = address.to_canonical();
        api.trusted_proxies.iter().any(|net| net.contains(&address))
    };
    if !trusted(&peer) {
        return peer;
    }
    let hops = headers.get_all("x-forwarded-for").iter();
    let hops: Vec<IpAddr> = hops
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map_while(|hop| hop.trim().parse().ok())
        .collect();
    // What stands left of the last untrusted hop, that hop may have made up.
    hops.into_iter()
        .rev()
        .find(|hop| !trusted(hop))
        .unwrap_or(peer)
}

/// A webhook on record.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct WebhookView {
    id: String,
    source_id: String,
    received_at: String,
    remote_address: String,
    /// `accepted`, `duplicate`, `ignored` or `failed`.
    state: &'static str,
    /// Why it was ignored or failed.
    reason: Option<String>,
    event_ids: Vec<String>,
}

impl From<&InboundWebhook> for WebhookView {
    fn from(webhook: &InboundWebhook) -> Self {
        Self {
            id: webhook.id.to_string(),
            source_id: webhook.source.to_string(),
            received_at: rfc3339(webhook.received_at),
            remote_address: webhook.remote_address.to_string(),
            state: webhook.state.as_str(),
            reason: webhook.reason.clone(),
            event_ids: webhook.events.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A webhook on record, with what came.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct WebhookDetail {
    #[serde(flatten)]
    webhook: WebhookView,
    /// Secrets replaced.
    query: String,
    /// Name and value; credentials and signatures left out.
    headers: Vec<(String, String)>,
    /// As text; `null` when it is none.
    body: Option<String>,
    /// In base64, as it came. Empty for a duplicate.
    body_base64: String,
}

/// List inbound webhooks
#[utoipa::path(get, path = "/inbound-webhooks", tag = "sources",
    params(
        ("sourceId" = Option<String>, Query),
        ("state" = Option<String>, Query, description = "`accepted`, `duplicate`, `ignored` or `failed`"),
        ("from" = Option<String>, Query, description = "Received at or after, RFC 3339"),
        ("until" = Option<String>, Query, description = "Received before, RFC 3339"),
        PageParams,
    ),
    responses((status = 200, body = Items<WebhookView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&["sourceId", "state", "from", "until"])?;
    let state = query.one("state")?.map(|text| {
        let known = WebhookState::ALL
            .into_iter()
            .find(|state| state.as_str() == text);
        known.ok_or_else(|| ApiError::field("state", "give accepted, duplicate, ignored or failed"))
    });
    let filter = WebhookFilter {
        source: query.parsed("sourceId")?,
        state: state.transpose()?,
        from: query.instant("from")?,
        until: query.instant("until")?,
    };
    let after = query.cursor_id(WebhookId::PREFIX)?;
    let page = api.store.webhooks(&filter, after, query.limit()?).await?;
    let key = |webhook: &InboundWebhook| webhook.id.to_string();
    Ok(query.answer(WebhookId::PREFIX, page, key, |webhook| {
        WebhookView::from(&webhook)
    }))
}

async fn on_record(api: &Shared, id: WebhookId) -> Result<InboundWebhook, ApiError> {
    let found = api.store.webhook(id).await?;
    found.ok_or_else(|| ApiError::not_found(format!("inbound webhook {id}")))
}

/// Show an inbound webhook
#[utoipa::path(get, path = "/inbound-webhooks/{id}", tag = "sources", params(("id" = String, Path)),
    responses((status = 200, body = WebhookDetail), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<WebhookId>,
) -> Result<Json<WebhookDetail>, ApiError> {
    let webhook = on_record(&api, id).await?;
    Ok(Json(WebhookDetail {
        body: std::str::from_utf8(&webhook.body).ok().map(str::to_owned),
        body_base64: STANDARD.encode(&webhook.body),
        query: webhook.query.clone(),
        headers: webhook.headers.clone(),
        webhook: WebhookView::from(&webhook),
    }))
}

/// Retry an inbound webhook
///
/// Turns one that failed or was ignored into events again: with the component, the config and the
/// event types of now.
#[utoipa::path(post, path = "/inbound-webhooks/{id}/retry", tag = "sources", params(("id" = String, Path)),
    responses((status = 202, body = ReceiptView), (status = 200, body = ReceiptView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn retry(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<WebhookId>,
) -> Result<(StatusCode, Json<ReceiptView>), ApiError> {
    let webhook = on_record(&api, id).await?;
    if !matches!(webhook.state, WebhookState::Failed | WebhookState::Ignored) {
        return Err(ApiError::conflict(
            "its events were accepted: retry their deliveries instead",
        ));
    }
    let snapshot = api.snapshots.current();
    let open = find(&snapshot, webhook.source)?;
    let entry = caller
        .did(&api, "inbound_webhook.retried", "inbound_webhook", id)
        .before(&WebhookView::from(&webhook));
    Ok(answer(api.ingress.retry(open, webhook, entry).await?))
}

//! Trying a subscription out: a preview that sends nothing, and a test event that does.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Shared;
use super::auth::Operate;
use super::deliveries::LogLineView;
use super::error::{ApiError, Problem};
use super::extract::{Body, Id};
use super::subscriptions::{SubscriptionInput, check_programs, find, subscription};
use crate::dispatch::accept::Emit;
use crate::dispatch::snapshot::{Snapshot, subscription_row};
use crate::domain::event::Event;
use crate::domain::id::{EventId, SubscriptionId};
use crate::domain::subscription::Subscription;
use crate::egress::Preview;
use crate::egress::preview::{RecordedRequest, ScriptedAnswer};
use crate::plugin::{DeliverCall, DocumentKind};
use crate::telemetry;

const ANSWERS_MAX: usize = 20;

/// The event to try with. Nothing given: the example of the subscription's event type.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TrialEvent {
    /// A stored event.
    event_id: Option<String>,
    /// A registered type; needed where the subscription wants more than one.
    r#type: Option<String>,
    /// Its payload; unset: the type's example.
    #[schema(value_type = Object)]
    payload: Option<Box<RawValue>>,
    correlation_key: Option<String>,
}

/// An answer of the receiver's to make believe.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AnswerInput {
    status: u16,
    #[serde(default)]
    body: Value,
}

/// What to preview.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PreviewInput {
    #[serde(default)]
    event: TrialEvent,
    /// What an earlier delivery returned, to preview a follow-up.
    external_id: Option<String>,
    /// What the receiver answers to the first, second, … request; beyond these it answers 200 with
    /// `{"ok": true}`.
    #[serde(default)]
    answers: Vec<AnswerInput>,
}

/// What to preview, with a subscription that is not stored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DraftInput {
    subscription: SubscriptionInput,
    #[serde(default)]
    event: TrialEvent,
    /// As in a preview of a stored subscription.
    external_id: Option<String>,
    /// As in a preview of a stored subscription.
    #[serde(default)]
    answers: Vec<AnswerInput>,
}

/// A request that would be sent, credentials masked.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestView {
    method: String,
    url: String,
    /// Name and value.
    headers: Vec<(String, String)>,
    /// As text; what is no UTF-8 is replaced.
    body: String,
}

impl From<RecordedRequest> for RequestView {
    fn from(request: RecordedRequest) -> Self {
        Self {
            method: request.method,
            url: request.url,
            headers: request.headers,
            body: String::from_utf8_lossy(&request.body).into_owned(),
        }
    }
}

/// What a delivery would do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PreviewView {
    /// Whether the event passes the subscription's filter.
    passes: bool,
    /// Whether the provider was content with the answers.
    ok: bool,
    /// The provider's summary or error; what is wrong with the filter or the transform.
    message: String,
    external_id: Option<String>,
    /// The payload that the provider gets.
    #[schema(value_type = Object)]
    payload: Value,
    requests: Vec<RequestView>,
    logs: Vec<LogLineView>,
}

async fn event(
    api: &Shared,
    snapshot: &Snapshot,
    subscription: &Subscription,
    input: TrialEvent,
) -> Result<Arc<Event>, ApiError> {
    if let Some(text) = input.event_id {
        let missing = || ApiError::field("/event/eventId", format!("there is no event {text}"));
        let id: EventId = text.parse().map_err(|_| missing())?;
        let stored = api.store.event(id).await?;
        return stored.map(Arc::new).ok_or_else(missing);
    }
    let exact = subscription.events.exact().map(str::to_owned);
    let Some(name) = input.r#type.or(exact) else {
        return Err(ApiError::field(
            "/event/type",
            "the subscription wants more than one type: say which",
        ));
    };
    let registered = snapshot.event_types.get(&name);
    let example = registered.and_then(|registered| registered.event_type.example.as_ref());
    let payload = match (input.payload, example) {
        (Some(payload), _) => payload.get().into(),
        (None, Some(example)) => example.to_string().into_boxed_str(),
        (None, None) => {
            return Err(ApiError::field(
                "/event/payload",
                format!("the event type {name} has no example: give a payload"),
            ));
        }
    };
    let emit = Emit {
        event_type: name,
        payload_text: payload,
        occurred_at: None,
        correlation_key: input.correlation_key,
        system_ids: Vec::new(),
    };
    let prepared = api.accepter.event(snapshot, &emit, api.clock.now()).await;
    prepared.map_err(|violations| ApiError::violations("/event", violations))
}

async fn preview(
    api: &Shared,
    snapshot: &Snapshot,
    subscription: &Subscription,
    input: PreviewInput,
) -> Result<Json<PreviewView>, ApiError> {
    let answers = answers(input.answers)?;
    let mut event = event(api, snapshot, subscription, input.event).await?;
    let programs = &api.accepter.programs;
    let mut view = PreviewView {
        passes: true,
        ok: false,
        message: String::new(),
        external_id: None,
        payload: Value::Null,
        requests: Vec::new(),
        logs: Vec::new(),
    };
    if let Some(filter) = &subscription.filter {
        match programs.passes(filter, &event).await {
            Ok(passes) => view.passes = passes,
            Err(failure) => view.message = failure.about("the filter").to_string(),
        }
    }
    if let Some(transform) = &subscription.transform {
        match programs.transform(transform, &event).await {
            Ok(payload) => {
                event = Arc::new(Event {
                    payload,
                    ..(*event).clone()
                });
            }
            Err(failure) => view.message = failure.about("the transform").to_string(),
        }
    }
    view.payload = serde_json::from_str(&event.payload).unwrap_or_default();
    if !view.message.is_empty() {
        return Ok(Json(view));
    }
    let recorder = Arc::new(Preview::new(answers));
    let call = call(
        api,
        snapshot,
        subscription,
        event,
        input.external_id,
        &recorder,
    )?;
    let report = api.providers.deliver(&subscription.provider, call).await;
    view.ok = report.result.is_ok();
    match report.result {
        Ok(receipt) => {
            view.message = receipt.summary;
            view.external_id = receipt.external_id;
        }
        Err(failure) => view.message = failure.to_string(),
    }
    let requests = recorder.requests().into_iter();
    view.requests = requests.map(RequestView::from).collect();
    view.logs = report.logs.into_iter().map(LogLineView::from).collect();
    Ok(Json(view))
}

fn answers(input: Vec<AnswerInput>) -> Result<Vec<ScriptedAnswer>, ApiError> {
    if input.len() > ANSWERS_MAX {
        let problem = format!("at most {ANSWERS_MAX} answers");
        return Err(ApiError::field("/answers", problem));
    }
    let answer = |(index, answer): (usize, AnswerInput)| {
        let status = StatusCode::from_u16(answer.status)
            .ok()
            .filter(|status| status.as_u16() >= 200);
        let place = format!("/answers/{index}/status");
        Ok(ScriptedAnswer {
            status: status.ok_or_else(|| ApiError::field(place, "give 200 to 999"))?,
            body: answer.body.to_string(),
        })
    };
    input.into_iter().enumerate().map(answer).collect()
}

fn call(
    api: &Shared,
    snapshot: &Snapshot,
    subscription: &Subscription,
    event: Arc<Event>,
    external_id: Option<String>,
    recorder: &Arc<Preview>,
) -> Result<DeliverCall, ApiError> {
    let row = subscription_row(subscription.id);
    let config = api
        .vault
        .open_for_guest(&row, DocumentKind::Config, &subscription.config)?;
    let connection = match subscription.connection {
        None => None,
        Some(id) => {
            let shared = snapshot.connections.get(&id);
            let shared = shared
                .ok_or_else(|| ApiError::conflict(format!("the connection {id} does not exist")))?;
            Some(shared.open(&api.vault)?)
        }
    };
    Ok(DeliverCall {
        delivery_id: api.ids.next(api.clock.now()),
        event,
        attempt: 1,
        external_id,
        subscription_id: subscription.id,
        subscription_name: subscription.name.as_str().into(),
        config,
        connection,
        // Nothing of a preview is remembered for real calls.
        cache_scope: "preview".into(),
        timeout: subscription
            .timeout_ms
            .map(|ms| Duration::from_millis(ms.into())),
        preview: Some(recorder.clone()),
    })
}

/// Preview a subscription
///
/// Runs filter, transform and provider as a delivery would, and records the requests instead of
/// sending them.
#[utoipa::path(post, path = "/subscriptions/{id}/preview", tag = "subscriptions", params(("id" = String, Path)),
    request_body = PreviewInput, responses((status = 200, body = PreviewView), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn preview_stored(
    State(api): State<Shared>,
    _: Operate,
    Id(id): Id<SubscriptionId>,
    Body(input): Body<PreviewInput>,
) -> Result<Json<PreviewView>, ApiError> {
    let snapshot = api.snapshots.current();
    let stored = find(&snapshot, id)?;
    preview(&api, &snapshot, &stored, input).await
}

/// Preview a subscription that is not stored
#[utoipa::path(post, path = "/subscription-previews", tag = "subscriptions",
    request_body = DraftInput, responses((status = 200, body = PreviewView), (status = 400, body = Problem)))]
pub(super) async fn preview_draft(
    State(api): State<Shared>,
    _: Operate,
    Body(input): Body<DraftInput>,
) -> Result<Json<PreviewView>, ApiError> {
    check_programs(&api, &input.subscription)
        .await
        .map_err(|error| error.below("/subscription"))?;
    let snapshot = api.snapshots.current();
    let id = api.ids.next(api.clock.now());
    let draft = subscription(&api, &snapshot, id, input.subscription, None)
        .map_err(|error| error.below("/subscription"))?;
    let rest = PreviewInput {
        event: input.event,
        external_id: input.external_id,
        answers: input.answers,
    };
    preview(&api, &snapshot, &draft, rest).await
}

/// A test event on its way.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TestEventView {
    event_id: String,
    /// The one delivery: to follow at `GET /api/v1/deliveries/{id}`.
    delivery_id: String,
}

/// Send a test event
///
/// Accepts an event for this subscription alone: queued, delivered and logged like any other.
#[utoipa::path(post, path = "/subscriptions/{id}/test-event", tag = "subscriptions", params(("id" = String, Path)),
    request_body = TrialEvent, responses((status = 202, body = TestEventView), (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn send_test_event(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<SubscriptionId>,
    Body(input): Body<TrialEvent>,
) -> Result<(StatusCode, Json<TestEventView>), ApiError> {
    let snapshot = api.snapshots.latest().await?;
    let stored = find(&snapshot, id)?;
    if !stored.enabled {
        return Err(ApiError::conflict(
            "the subscription is switched off: the delivery would be cancelled at once",
        ));
    }
    let event = event(&api, &snapshot, &stored, input).await?;
    if let Some(filter) = &stored.filter
        && matches!(
            api.accepter.programs.passes(filter, &event).await,
            Ok(false)
        )
    {
        return Err(ApiError::conflict(
            "the event does not pass the subscription's filter: give a payload that does",
        ));
    }
    // A stored event is sent as a new one: its deliveries are its own.
    let event = Event {
        id: api.ids.next(api.clock.now()),
        received_at: api.clock.now(),
        trace: telemetry::current().map(|place| place.parent()),
        ..(*event).clone()
    };
    let entry = caller
        .did(&api, "subscription.tested", "subscription", id)
        .after(&serde_json::json!({"eventId": event.id.to_string()}));
    let accepted = api.accepter.accept_for(event, &stored, entry).await;
    let (event_id, delivery_id) = accepted?;
    Ok((
        StatusCode::ACCEPTED,
        Json(TestEventView {
            event_id: event_id.to_string(),
            delivery_id: delivery_id.to_string(),
        }),
    ))
}

//! Subscriptions.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Administer, Caller, Operate, Read};
use super::error::{ApiError, FieldProblem, Problem};
use super::extract::{Body, Id};
use super::flow::{CircuitBreakerView, CircuitView, Circuits, RateLimitView, flow};
use super::page::{Items, PageParams, Query};
use crate::dispatch::accept::unknown_type;
use crate::dispatch::snapshot::subscription_row;
use crate::dispatch::{Edit, Snapshot};
use crate::domain::clock::rfc3339;
use crate::domain::event::EventPattern;
use crate::domain::id::{ConnectionId, SubscriptionId};
use crate::domain::provider::{Descriptor, ProviderId, VersionedSchema};
use crate::domain::retry::RetryPolicy;
use crate::domain::schema;
use crate::domain::subscription::{SealedDocument, Subscription};
use crate::domain::templates::{self, Finding};
use crate::vault::document::redact;

pub(super) const NAME_BYTES_MAX: usize = 200;
const RETRIES_MAX: usize = 100;
const DELAY_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
const TIMEOUT_MS_MAX: u32 = 300_000;
const SYSTEMS_MAX: usize = 1_000;

/// The delays between attempts.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RetryView {
    /// Milliseconds after the first, second, … failed attempt; empty: no second attempt.
    delays_ms: Vec<u64>,
}

/// What makes a subscription.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SubscriptionInput {
    name: String,
    /// An event type, `incident.*`, or `*`.
    events: String,
    provider: String,
    /// What the provider's config schema describes.
    #[schema(value_type = Object)]
    config: Value,
    connection_id: Option<String>,
    /// Systems wanted; empty: all.
    #[serde(default)]
    system_filter: Vec<String>,
    /// A jq condition over `{event, payload}`: `.payload.severity == "high"`.
    filter: Option<String>,
    /// A jq program that makes the payload for the provider: an object.
    transform: Option<String>,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    paused: bool,
    /// One after the other within a correlation key.
    #[serde(default)]
    ordered: bool,
    /// Unset: after 1, 5 and 15 minutes.
    retry: Option<RetryView>,
    /// Deadline of one attempt, 1 to 300,000 ms; unset: the provider's.
    timeout_ms: Option<u32>,
    /// Unset: as often as there is something to deliver.
    rate_limit: Option<RateLimitView>,
    /// Attempts under way at the same time, 1 to 10,000; unset: the gateway's own share.
    concurrency: Option<u32>,
    /// Unset: the defaults.
    circuit_breaker: Option<CircuitBreakerView>,
}

fn yes() -> bool {
    true
}

/// A subscription.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SubscriptionView {
    id: String,
    name: String,
    events: String,
    provider: String,
    /// Secrets are shown as empty strings.
    #[schema(value_type = Object)]
    config: Value,
    /// JSON Pointers of the secrets on record.
    secrets_set: Vec<String>,
    connection_id: Option<String>,
    system_filter: Vec<String>,
    filter: Option<String>,
    transform: Option<String>,
    enabled: bool,
    /// Why the gateway switched it off.
    disabled_reason: Option<String>,
    paused: bool,
    ordered: bool,
    retry: RetryView,
    timeout_ms: Option<u32>,
    rate_limit: Option<RateLimitView>,
    concurrency: Option<u32>,
    circuit_breaker: CircuitBreakerView,
    circuit: CircuitView,
    /// What templates name and event types do not describe. Not in listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    template_warnings: Option<Vec<FieldProblem>>,
    created_at: String,
    updated_at: String,
}

impl SubscriptionView {
    /// As the audit trail has it.
    fn audited(subscription: &Subscription) -> Self {
        Self::new(subscription, &Circuits::closed())
    }

    fn new(subscription: &Subscription, circuits: &Circuits) -> Self {
        let shown = redact(&subscription.config);
        Self {
            id: subscription.id.to_string(),
            name: subscription.name.clone(),
            events: subscription.events.as_str().to_owned(),
            provider: subscription.provider.to_string(),
            config: shown.json,
            secrets_set: shown.secrets_set,
            connection_id: subscription.connection.map(|id| id.to_string()),
            system_filter: subscription.system_filter.clone(),
            filter: subscription.filter.as_deref().map(str::to_owned),
            transform: subscription.transform.as_deref().map(str::to_owned),
            enabled: subscription.enabled,
            disabled_reason: subscription.disabled_reason.clone(),
            paused: subscription.paused,
            ordered: subscription.ordered,
            retry: RetryView {
                delays_ms: subscription.retry.clone().unwrap_or_default().delays_ms,
            },
            timeout_ms: subscription.timeout_ms,
            rate_limit: subscription.flow.rate.map(Into::into),
            concurrency: subscription.flow.concurrency,
            circuit_breaker: subscription.flow.circuit.into(),
            circuit: circuits.of(subscription.id),
            template_warnings: None,
            created_at: rfc3339(subscription.created_at),
            updated_at: rfc3339(subscription.updated_at),
        }
    }

    fn with_warnings(mut self, api: &Shared, snapshot: &Snapshot, of: &Subscription) -> Self {
        let descriptor = api.providers.descriptor(&of.provider);
        let findings = descriptor.map_or_else(Vec::new, |descriptor| {
            findings(snapshot, of, &descriptor.config.schema)
        });
        self.template_warnings = Some(findings.into_iter().map(problem).collect());
        self
    }
}

/// What is to be said about the templates of a subscription.
fn findings(snapshot: &Snapshot, subscription: &Subscription, schema: &Value) -> Vec<Finding> {
    let mut payloads = Vec::new();
    if subscription.transform.is_some() {
        // The payload is what the transform makes of it.
        payloads.push(None);
    }
    for (name, registered) in &snapshot.event_types {
        if subscription.events.matches(name) {
            payloads.push(registered.event_type.payload_schema.as_ref());
        }
    }
    templates::check(schema, &subscription.config.json, &payloads)
}

fn problem(finding: Finding) -> FieldProblem {
    FieldProblem {
        field: format!("/config{}", finding.pointer),
        message: finding.message,
    }
}

/// The serving version of a provider named in a request.
pub(super) fn serving(
    api: &Shared,
    id: &str,
) -> Result<(ProviderId, std::sync::Arc<Descriptor>), ApiError> {
    let id =
        ProviderId::parse(id).map_err(|error| ApiError::field("/provider", error.to_string()))?;
    let descriptor = api.providers.descriptor(&id).ok_or_else(|| {
        ApiError::field(
            "/provider",
            format!("no provider {id} answers calls: install it and grant what it asks for, see GET /api/v1/providers"),
        )
    })?;
    Ok((id, descriptor))
}

/// Merges stored secrets, validates against the provider's schema, and seals.
pub(super) fn seal(
    api: &Shared,
    row: &str,
    field: &str,
    schema: &VersionedSchema,
    incoming: Value,
    previous: Option<&SealedDocument>,
) -> Result<SealedDocument, ApiError> {
    let plain = api.vault.merge(row, &schema.schema, incoming, previous)?;
    let validator = schema::compile(&schema.schema).map_err(|error| {
        ApiError::conflict(format!("the provider's schema cannot be used: {error}"))
    })?;
    let violations = schema::violations(&validator, &plain);
    if !violations.is_empty() {
        return Err(ApiError::violations(field, violations));
    }
    Ok(api
        .vault
        .seal_document(row, &schema.schema, schema.version, plain))
}

/// What an input makes, checked against provider, connection and schema.
pub(super) fn subscription(
    api: &Shared,
    snapshot: &Snapshot,
    id: SubscriptionId,
    input: SubscriptionInput,
    previous: Option<&Subscription>,
) -> Result<Subscription, ApiError> {
    check_name(&input.name)?;
    let events = EventPattern::parse(&input.events)
        .map_err(|error| ApiError::field("/events", error.to_string()))?;
    if let Some(name) = events.exact()
        && !snapshot.event_types.contains_key(name)
    {
        return Err(ApiError::field("/events", unknown_type(snapshot, name)));
    }
    let (provider, descriptor) = serving(api, &input.provider)?;
    let connection = input
        .connection_id
        .as_deref()
        .map(|text| {
            let found = text
                .parse::<ConnectionId>()
                .ok()
                .and_then(|id| snapshot.connections.get(&id));
            let shared = found.ok_or_else(|| {
                ApiError::field("/connectionId", format!("there is no connection {text}"))
            })?;
            if shared.connection.provider != provider {
                return Err(ApiError::field(
                    "/connectionId",
                    format!(
                        "belongs to the provider {}, not to {provider}",
                        shared.connection.provider
                    ),
                ));
            }
            Ok(shared.connection.id)
        })
        .transpose()?;
    check_delivery_settings(&input)?;
    let flow = flow(input.rate_limit, input.concurrency, input.circuit_breaker)?;
    // Secrets are kept only where they stay with the provider that they were given to.
    let kept = previous.filter(|previous| previous.provider == provider);
    let config = seal(
        api,
        &subscription_row(id),
        "/config",
        &descriptor.config,
        input.config,
        kept.map(|previous| &previous.config),
    )?;
    let now = api.clock.now();
    let made = Subscription {
        id,
        name: input.name,
        events,
        provider,
        config,
        connection,
        system_filter: input.system_filter,
        filter: input.filter.map(Into::into),
        transform: input.transform.map(Into::into),
        enabled: input.enabled,
        disabled_reason: None,
        paused: input.paused,
        ordered: input.ordered,
        retry: input.retry.map(|retry| RetryPolicy {
            delays_ms: retry.delays_ms,
        }),
        timeout_ms: input.timeout_ms,
        flow,
        created_at: previous.map_or(now, |previous| previous.created_at),
        updated_at: now,
    };
    let wrong: Vec<_> = findings(snapshot, &made, &descriptor.config.schema)
        .into_iter()
        .filter(|finding| finding.is_error)
        .map(problem)
        .collect();
    if !wrong.is_empty() {
        return Err(ApiError::fields(wrong));
    }
    Ok(made)
}

/// Checks the programs of an input, in the sandbox.
pub(super) async fn check_programs(
    api: &Shared,
    input: &SubscriptionInput,
) -> Result<(), ApiError> {
    for (field, program) in [("/filter", &input.filter), ("/transform", &input.transform)] {
        if let Some(program) = program {
            check_program(api, field, program).await?;
        }
    }
    Ok(())
}

/// Checks one program.
pub(super) async fn check_program(
    api: &Shared,
    field: &str,
    program: &str,
) -> Result<(), ApiError> {
    let checked = api.accepter.programs.check(program).await;
    checked.map_err(|problem| ApiError::field(field, problem))
}

pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    if name.trim().is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(ApiError::field(
            "/name",
            format!("give 1 to {NAME_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

fn check_delivery_settings(input: &SubscriptionInput) -> Result<(), ApiError> {
    if let Some(retry) = &input.retry {
        if retry.delays_ms.len() > RETRIES_MAX {
            return Err(ApiError::field(
                "/retry/delaysMs",
                format!("at most {RETRIES_MAX} retries"),
            ));
        }
        if let Some(index) = retry
            .delays_ms
            .iter()
            .position(|delay| *delay > DELAY_MS_MAX)
        {
            return Err(ApiError::field(
                format!("/retry/delaysMs/{index}"),
                format!("at most {DELAY_MS_MAX} ms, which is a day"),
            ));
        }
    }
    if input
        .timeout_ms
        .is_some_and(|timeout| !(1..=TIMEOUT_MS_MAX).contains(&timeout))
    {
        return Err(ApiError::field(
            "/timeoutMs",
            format!("give 1 to {TIMEOUT_MS_MAX}"),
        ));
    }
    if input.system_filter.len() > SYSTEMS_MAX {
        return Err(ApiError::field(
            "/systemFilter",
            format!("at most {SYSTEMS_MAX} systems"),
        ));
    }
    Ok(())
}

pub(super) fn find(snapshot: &Snapshot, id: SubscriptionId) -> Result<Subscription, ApiError> {
    let route = snapshot.routes.get(&id);
    let route = route.ok_or_else(|| ApiError::not_found(format!("subscription {id}")))?;
    Ok((*route.subscription).clone())
}

/// Puts it on record, with the entry about it: `action` of what was `before`.
async fn store(
    api: &Shared,
    edit: Edit<'_>,
    (caller, action): (&Caller, &'static str),
    before: Option<&Subscription>,
    subscription: Subscription,
) -> Result<Json<SubscriptionView>, ApiError> {
    let mut entry = caller
        .did(api, action, "subscription", subscription.id)
        .after(&SubscriptionView::audited(&subscription));
    if let Some(before) = before {
        entry = entry.before(&SubscriptionView::audited(before));
    }
    let view = SubscriptionView::new(&subscription, &Circuits::closed()).with_warnings(
        api,
        &edit.snapshot,
        &subscription,
    );
    let store = api.store.audited(entry);
    store.put_subscription(subscription).await?;
    edit.done().await?;
    // Deliveries that waited for this may go.
    api.queue.wake(api.clock.now());
    Ok(Json(view))
}

/// Create a subscription
#[utoipa::path(post, path = "/subscriptions", tag = "subscriptions",
    request_body = SubscriptionInput, responses((status = 201, body = SubscriptionView), (status = 400, body = Problem)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Body(input): Body<SubscriptionInput>,
) -> Result<(StatusCode, Json<SubscriptionView>), ApiError> {
    check_programs(&api, &input).await?;
    let edit = api.snapshots.edit().await?;
    let id = api.ids.next(api.clock.now());
    let subscription = subscription(&api, &edit.snapshot, id, input, None)?;
    let by = (&caller, "subscription.created");
    let stored = store(&api, edit, by, None, subscription).await?;
    Ok((StatusCode::CREATED, stored))
}

/// List the subscriptions
#[utoipa::path(get, path = "/subscriptions", tag = "subscriptions", params(PageParams),
    responses((status = 200, body = Items<SubscriptionView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&[])?;
    let circuits = Circuits::now(&api).await?;
    let snapshot = api.snapshots.current();
    let all = snapshot
        .routes
        .values()
        .map(|route| &*route.subscription)
        .collect();
    let key = |subscription: &&Subscription| subscription.id.to_string();
    let page = query.cut(SubscriptionId::PREFIX, all, key)?;
    Ok(
        query.answer(SubscriptionId::PREFIX, page, key, |subscription| {
            SubscriptionView::new(subscription, &circuits)
        }),
    )
}

/// Show a subscription
#[utoipa::path(get, path = "/subscriptions/{id}", tag = "subscriptions", params(("id" = String, Path)),
    responses((status = 200, body = SubscriptionView), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<SubscriptionId>,
) -> Result<Json<SubscriptionView>, ApiError> {
    let snapshot = api.snapshots.current();
    let subscription = find(&snapshot, id)?;
    let circuits = Circuits::now(&api).await?;
    let view = SubscriptionView::new(&subscription, &circuits);
    Ok(Json(view.with_warnings(&api, &snapshot, &subscription)))
}

/// Replace a subscription
///
/// A secret left as an empty string keeps the one on record. Switching it off cancels what is
/// queued; the next attempt of what is queued reads the new configuration. An open circuit closes.
#[utoipa::path(put, path = "/subscriptions/{id}", tag = "subscriptions", params(("id" = String, Path)),
    request_body = SubscriptionInput, responses((status = 200, body = SubscriptionView), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn replace(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<SubscriptionId>,
    Body(input): Body<SubscriptionInput>,
) -> Result<Json<SubscriptionView>, ApiError> {
    check_programs(&api, &input).await?;
    let edit = api.snapshots.edit().await?;
    let previous = find(&edit.snapshot, id)?;
    let subscription = subscription(&api, &edit.snapshot, id, input, Some(&previous))?;
    let by = (&caller, "subscription.updated");
    store(&api, edit, by, Some(&previous), subscription).await
}

/// Delete a subscription
///
/// What is queued is cancelled; its deliveries stay in the log.
#[utoipa::path(delete, path = "/subscriptions/{id}", tag = "subscriptions", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<SubscriptionId>,
) -> Result<StatusCode, ApiError> {
    let edit = api.snapshots.edit().await?;
    let previous = find(&edit.snapshot, id)?;
    let entry = caller
        .did(&api, "subscription.deleted", "subscription", id)
        .before(&SubscriptionView::audited(&previous));
    let store = api.store.audited(entry);
    if !store.delete_subscription(id, api.clock.now()).await? {
        return Err(ApiError::not_found(format!("subscription {id}")));
    }
    edit.done().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn change(
    api: &Shared,
    by: (&Caller, &'static str),
    id: SubscriptionId,
    change: impl FnOnce(&mut Subscription),
) -> Result<Json<SubscriptionView>, ApiError> {
    let edit = api.snapshots.edit().await?;
    let before = find(&edit.snapshot, id)?;
    let mut subscription = before.clone();
    change(&mut subscription);
    subscription.updated_at = api.clock.now();
    store(api, edit, by, Some(&before), subscription).await
}

/// Pause a subscription
///
/// Events go on being matched and queued; nothing is sent.
#[utoipa::path(post, path = "/subscriptions/{id}/pause", tag = "subscriptions", params(("id" = String, Path)),
    responses((status = 200, body = SubscriptionView), (status = 404, body = Problem)))]
pub(super) async fn pause(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<SubscriptionId>,
) -> Result<Json<SubscriptionView>, ApiError> {
    let by = (&caller, "subscription.paused");
    change(&api, by, id, |subscription| subscription.paused = true).await
}

/// Resume a subscription
#[utoipa::path(post, path = "/subscriptions/{id}/resume", tag = "subscriptions", params(("id" = String, Path)),
    responses((status = 200, body = SubscriptionView), (status = 404, body = Problem)))]
pub(super) async fn resume(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<SubscriptionId>,
) -> Result<Json<SubscriptionView>, ApiError> {
    let by = (&caller, "subscription.resumed");
    change(&api, by, id, |subscription| subscription.paused = false).await
}

/// Switch a subscription on
#[utoipa::path(post, path = "/subscriptions/{id}/enable", tag = "subscriptions", params(("id" = String, Path)),
    responses((status = 200, body = SubscriptionView), (status = 404, body = Problem)))]
pub(super) async fn enable(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<SubscriptionId>,
) -> Result<Json<SubscriptionView>, ApiError> {
    let by = (&caller, "subscription.enabled");
    change(&api, by, id, |subscription| {
        subscription.enabled = true;
        subscription.disabled_reason = None;
    })
    .await
}

/// Switch a subscription off
///
/// What is queued is cancelled.
#[utoipa::path(post, path = "/subscriptions/{id}/disable", tag = "subscriptions", params(("id" = String, Path)),
    responses((status = 200, body = SubscriptionView), (status = 404, body = Problem)))]
pub(super) async fn disable(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<SubscriptionId>,
) -> Result<Json<SubscriptionView>, ApiError> {
    let by = (&caller, "subscription.disabled");
    change(&api, by, id, |subscription| subscription.enabled = false).await
}

//! Installed providers: what they are, what they ask for, what is granted.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Administer, Operate, Read};
use super::error::{ApiError, Problem};
use super::extract::{Body, Id};
use crate::domain::clock::rfc3339;
use crate::domain::id::ConnectionId;
use crate::domain::provider::{
    ComponentReport, ComponentState, Descriptor, Grant, Permissions, ProviderId, ProviderReport,
};
use crate::plugin::{CallFailure, GrantError, OptionsCall};
use crate::vault::document::without_secrets;

/// What a provider asks for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PermissionsView {
    hosts: BTreeSet<String>,
    expose_secrets: bool,
}

/// How to set a provider up.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DocumentationView {
    /// Markdown.
    setup_guide: String,
    example_payload: Option<Value>,
    headers: Vec<HeaderView>,
    link: Option<String>,
}

/// An HTTP header that a provider sends.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HeaderView {
    name: String,
    meaning: String,
}

/// A schema with its version.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SchemaView {
    version: u32,
    /// JSON Schema, draft 2020-12.
    #[schema(value_type = Object)]
    schema: Value,
}

/// A version of a provider: one component file.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VersionView {
    file: String,
    /// SHA-256 of the file.
    digest: String,
    /// `loading`, `serving`, `awaiting_grant` or `rejected`.
    state: &'static str,
    /// Why it is rejected, or what it waits for.
    reason: Option<String>,
    changed_at: String,
    #[serde(flatten)]
    described: Option<DescribedView>,
}

/// What a component says of itself.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DescribedView {
    version: String,
    name: String,
    description: String,
    /// A Lucide icon.
    icon: String,
    /// `provider`, `source` or `transform`: what the component does.
    kind: &'static str,
    events: Vec<String>,
    documentation: DocumentationView,
    config_schema: SchemaView,
    connection_schema: Option<SchemaView>,
    permissions: PermissionsView,
}

/// A provider.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProviderView {
    id: String,
    /// `serving`, `awaiting_grant` or `rejected`.
    state: &'static str,
    /// The version that answers calls.
    serving: Option<VersionView>,
    /// A newer version that waits or cannot be used.
    candidate: Option<VersionView>,
    grant: Option<GrantView>,
}

/// What is granted.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GrantView {
    /// Of what the provider asks for.
    hosts: BTreeSet<String>,
    #[serde(default)]
    expose_secrets: bool,
    /// Networks that are otherwise prohibited, in CIDR notation.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    allow_addresses: Vec<ipnet::IpNet>,
}

/// Providers, and files that are none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProvidersView {
    items: Vec<ProviderView>,
    /// Files in the providers directory that cannot be used.
    rejected_files: Vec<VersionView>,
}

impl From<&Descriptor> for DescribedView {
    fn from(descriptor: &Descriptor) -> Self {
        let schema = |schema: &crate::domain::provider::VersionedSchema| SchemaView {
            version: schema.version,
            schema: schema.schema.clone(),
        };
        let documentation = &descriptor.documentation;
        Self {
            version: descriptor.version.clone(),
            name: descriptor.name.clone(),
            description: descriptor.description.clone(),
            icon: descriptor.icon.clone(),
            kind: descriptor.kind.as_str(),
            events: descriptor.events.clone(),
            documentation: DocumentationView {
                setup_guide: documentation.setup_guide.clone(),
                example_payload: documentation.example_payload.clone(),
                headers: documentation
                    .headers
                    .iter()
                    .map(|(name, meaning)| HeaderView {
                        name: name.clone(),
                        meaning: meaning.clone(),
                    })
                    .collect(),
                link: documentation.link.clone(),
            },
            config_schema: schema(&descriptor.config),
            connection_schema: descriptor.connection.as_ref().map(schema),
            permissions: PermissionsView {
                hosts: descriptor.permissions.hosts.clone(),
                expose_secrets: descriptor.permissions.expose_secrets,
            },
        }
    }
}

/// What of `asked` is not granted, in words.
fn not_granted(asked: &Permissions, grant: Option<&Grant>) -> String {
    let none = Permissions::default();
    let granted = grant.map_or(&none, |grant| &grant.permissions);
    let mut missing: Vec<&str> = asked
        .hosts
        .difference(&granted.hosts)
        .map(String::as_str)
        .collect();
    if asked.expose_secrets && !granted.expose_secrets {
        missing.push("the text of its secrets");
    }
    if missing.is_empty() {
        return "waits for a grant".to_owned();
    }
    format!("asks for what is not granted: {}", missing.join(", "))
}

impl VersionView {
    fn new(report: &ComponentReport, grant: Option<&Grant>) -> Self {
        let (state, reason) = match &report.state {
            ComponentState::Loading => ("loading", None),
            ComponentState::Serving => ("serving", None),
            ComponentState::AwaitingGrant => (
                "awaiting_grant",
                report
                    .descriptor
                    .as_ref()
                    .map(|descriptor| not_granted(&descriptor.permissions, grant)),
            ),
            ComponentState::Rejected(reason) => ("rejected", Some(reason.clone())),
        };
        Self {
            file: report.file.clone(),
            digest: report.digest.clone(),
            state,
            reason,
            changed_at: rfc3339(report.changed_at),
            described: report.descriptor.as_deref().map(DescribedView::from),
        }
    }
}

impl From<&ProviderReport> for ProviderView {
    fn from(report: &ProviderReport) -> Self {
        let version = |version| VersionView::new(version, report.grant.as_ref());
        let candidate = report.candidate.as_ref().map(version);
        Self {
            id: report.id.to_string(),
            state: match (&report.serving, &candidate) {
                (Some(_), _) => "serving",
                (None, Some(candidate)) => candidate.state,
                (None, None) => "rejected",
            },
            serving: report.serving.as_ref().map(version),
            candidate,
            grant: report.grant.as_ref().map(|grant| GrantView {
                hosts: grant.permissions.hosts.clone(),
                expose_secrets: grant.permissions.expose_secrets,
                allow_addresses: grant.allow_addresses.clone(),
            }),
        }
    }
}

/// List the providers
#[utoipa::path(get, path = "/providers", tag = "providers", responses((status = 200, body = ProvidersView)))]
pub(super) async fn list(State(api): State<Shared>, _: Read) -> Json<ProvidersView> {
    Json(ProvidersView {
        items: api
            .providers
            .reports()
            .iter()
            .map(ProviderView::from)
            .collect(),
        rejected_files: api
            .providers
            .rejected_files()
            .iter()
            .map(|report| VersionView::new(report, None))
            .collect(),
    })
}

/// Show a provider
#[utoipa::path(get, path = "/providers/{id}", tag = "providers", params(("id" = String, Path)),
    responses((status = 200, body = ProviderView), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<String>,
) -> Result<Json<ProviderView>, ApiError> {
    let reports = api.providers.reports();
    let report = reports.iter().find(|report| report.id.as_str() == id);
    let report = report.ok_or_else(|| ApiError::not_found(format!("provider {id:?}")))?;
    Ok(Json(ProviderView::from(report)))
}

fn provider_id(id: &str) -> Result<ProviderId, ApiError> {
    ProviderId::parse(id).map_err(|_| ApiError::not_found(format!("provider {id:?}")))
}

/// Grant a provider what it may do
///
/// Replaces what was granted before. It carries over to newer versions that ask for nothing more.
#[utoipa::path(put, path = "/providers/{id}/grant", tag = "providers", params(("id" = String, Path)),
    request_body = GrantView, responses((status = 200, body = ProviderView), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn grant(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<String>,
    Body(input): Body<GrantView>,
) -> Result<Json<ProviderView>, ApiError> {
    let grant = Grant {
        permissions: Permissions {
            hosts: input.hosts,
            expose_secrets: input.expose_secrets,
        },
        allow_addresses: input.allow_addresses,
    };
    let id = provider_id(&id)?;
    let report = api.providers.grant(&id, grant, caller.author()).await;
    let report = report.map_err(|error| match error {
        GrantError::UnknownProvider(id) => ApiError::not_found(format!("provider {id}")),
        GrantError::Invalid(text) => ApiError::field("/hosts", text),
        GrantError::Unavailable(_) => {
            ApiError::unavailable("the store does not answer; nothing was granted")
        }
    })?;
    // Deliveries that failed for want of the provider may succeed now.
    api.queue.wake(api.clock.now());
    Ok(Json(ProviderView::from(&report)))
}

/// What a form asks for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OptionsInput {
    /// The field's `x-options-resolver`.
    resolver: String,
    connection_id: Option<String>,
    /// The form's values so far.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: Value,
    /// What the user typed.
    search: Option<String>,
}

/// An entry of a dropdown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OptionView {
    value: String,
    label: String,
}

/// Entries of a dropdown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OptionsView {
    items: Vec<OptionView>,
}

/// Entries of a dropdown
///
/// 409 when the provider cannot give them, with its reason for the form.
#[utoipa::path(post, path = "/providers/{id}/options", tag = "providers", params(("id" = String, Path)),
    request_body = OptionsInput, responses((status = 200, body = OptionsView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn options(
    State(api): State<Shared>,
    _: Operate,
    Id(id): Id<String>,
    Body(input): Body<OptionsInput>,
) -> Result<Json<OptionsView>, ApiError> {
    let id = provider_id(&id)?;
    let descriptor = api
        .providers
        .descriptor(&id)
        .ok_or_else(|| ApiError::not_found(format!("provider {id} that answers calls")))?;
    let snapshot = api.snapshots.current();
    let shared = input
        .connection_id
        .as_deref()
        .map(|text| {
            let found = text
                .parse::<ConnectionId>()
                .ok()
                .and_then(|id| snapshot.connections.get(&id));
            found
                .filter(|shared| shared.connection.provider == id)
                .ok_or_else(|| {
                    ApiError::field("/connectionId", format!("{id} has no connection {text}"))
                })
        })
        .transpose()?;
    let call = OptionsCall {
        resolver: input.resolver,
        connection: shared.map(|shared| shared.open(&api.vault)).transpose()?,
        context: without_secrets(&descriptor.config.schema, input.context),
        search: input.search,
        cache_scope: shared.map_or_else(
            || "options".into(),
            |shared| shared.connection.id.to_string().into(),
        ),
    };
    let report = api.providers.options(&id, call).await;
    let options = report.result.map_err(|failure| match failure {
        CallFailure::Unavailable(text) => ApiError::unavailable(text),
        other => ApiError::conflict(other.to_string()),
    })?;
    Ok(Json(OptionsView {
        items: options
            .into_iter()
            .map(|option| OptionView {
                value: option.value,
                label: option.label,
            })
            .collect(),
    }))
}

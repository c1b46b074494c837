//! Catalogues: all the event types of one plugin of the platform, registered in one call.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::auth::Administer;
use super::error::{ApiError, Problem};
use super::event_types::{EventTypeInput, EventTypeView, refuse_reserved};
use super::extract::Body;
use crate::domain::event::{EventType, EventTypeName};

const HOOKS_MAX: usize = 500;

/// A whole catalogue.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CatalogueInput {
    /// Event types by their name below the plugin's: `created` of the plugin `incident` is
    /// `incident.created`.
    event_types: BTreeMap<String, EventTypeInput>,
}

/// What a catalogue changed: full names.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CatalogueView {
    created: Vec<String>,
    updated: Vec<String>,
    unchanged: Vec<String>,
    /// No longer in the catalogue, and kept because subscriptions name them.
    retired: Vec<String>,
    /// No longer in the catalogue, and gone.
    removed: Vec<String>,
}

/// Register a plugin's catalogue
///
/// All its event types in one transaction. The same call again changes nothing. Types that the
/// catalogue had before and has no longer are removed, or retired where a subscription names them.
#[utoipa::path(put, path = "/plugins/{plugin}/event-types", tag = "event types", params(("plugin" = String, Path)),
    request_body = CatalogueInput, responses((status = 200, body = CatalogueView), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn put(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Path(plugin): Path<String>,
    Body(input): Body<CatalogueInput>,
) -> Result<Json<CatalogueView>, ApiError> {
    if input.event_types.len() > HOOKS_MAX {
        let problem = format!("at most {HOOKS_MAX} event types");
        return Err(ApiError::field("/eventTypes", problem));
    }
    let now = api.clock.now();
    let mut wanted = Vec::with_capacity(input.event_types.len());
    for (hook, input) in input.event_types {
        let place = format!("/eventTypes/{}", hook.replace('~', "~0").replace('/', "~1"));
        let name = EventTypeName::parse(&format!("{plugin}.{hook}"))
            .map_err(|error| ApiError::field(&place, error.to_string()))?;
        refuse_reserved(&name)?;
        let event_type = input.checked(&api, &place, name, now).await?;
        wanted.push(EventType {
            plugin: Some(plugin.clone()),
            ..event_type
        });
    }
    let edit = api.snapshots.edit().await?;
    let known = &edit.snapshot.event_types;
    let mut view = CatalogueView::default();
    let mut changed = Vec::new();
    for event_type in &wanted {
        let name = event_type.name.as_str().to_owned();
        let before = known.get(&name).map(|registered| &registered.event_type);
        if let Some(other) = before.and_then(|before| before.plugin.as_ref())
            && *other != plugin
        {
            return Err(ApiError::conflict(format!(
                "the event type {name} belongs to the plugin {other}"
            )));
        }
        let dated = |before: &EventType| EventType {
            created_at: before.created_at,
            updated_at: before.updated_at,
            ..event_type.clone()
        };
        match before {
            None => {
                view.created.push(name);
                changed.push(event_type.clone());
            }
            Some(before) if dated(before) == *before => view.unchanged.push(name),
            Some(before) => {
                view.updated.push(name);
                changed.push(EventType {
                    updated_at: now,
                    ..dated(before)
                });
            }
        }
    }
    let mut gone = Vec::new();
    for registered in known.values() {
        let event_type = &registered.event_type;
        let own = event_type.plugin.as_deref() == Some(&plugin);
        if !own || wanted.iter().any(|wanted| wanted.name == event_type.name) {
            continue;
        }
        let name = event_type.name.as_str();
        let mut routes = edit.snapshot.routes.values();
        let named = routes.any(|route| route.subscription.events.exact() == Some(name));
        if named {
            view.retired.push(name.to_owned());
        } else {
            view.removed.push(name.to_owned());
        }
        if !(named && event_type.retired) {
            gone.push(event_type.name.clone());
        }
    }
    view.retired.sort();
    view.removed.sort();
    if !changed.is_empty() || !gone.is_empty() {
        let shown = |event_type: &EventType| {
            let name = event_type.name.as_str().to_owned();
            (name, EventTypeView::from(event_type))
        };
        let affected = changed.iter().map(|event_type| &event_type.name);
        let before: BTreeMap<_, _> = affected
            .chain(&gone)
            .filter_map(|name| known.get(name.as_str()))
            .map(|registered| shown(&registered.event_type))
            .collect();
        let after: BTreeMap<_, _> = changed.iter().map(shown).collect();
        let entry = caller
            .did(&api, "catalogue.registered", "plugin", &plugin)
            .before(&before)
            .after(&serde_json::json!({"changes": view, "eventTypes": after}));
        let store = api.store.audited(entry);
        store.put_catalogue(changed, gone).await?;
        edit.done().await?;
    }
    Ok(Json(view))
}

//! What the registry of components tells, for others to know: the audit trail, and the gateway's own
//! events.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::accept::Accepter;
use super::operational;
use crate::domain::audit::NewEntry;
use crate::domain::provider::{ComponentReport, ComponentState, ProviderId};
use crate::plugin::registry::RegistryEvent;

/// Passes on what comes, until the registry is gone.
pub async fn pass_on(mut events: Receiver<RegistryEvent>, accepter: Arc<Accepter>) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "changes of components are not in the audit trail");
                continue;
            }
            Err(RecvError::Closed) => break,
        };
        let news = match event {
            RegistryEvent::Changed => continue,
            RegistryEvent::Serving { provider, report } => {
                News::of("component.serving", Some(provider), report)
            }
            RegistryEvent::AwaitingGrant {
                provider, report, ..
            } => News::of("component.awaiting_grant", Some(provider), report),
            RegistryEvent::Failed { provider, report } => {
                tell_failure(&accepter, provider.as_ref(), &report).await;
                News::of("component.rejected", provider, report)
            }
            RegistryEvent::Stopped {
                provider,
                file,
                digest,
                version,
                reason,
            } => News {
                action: "component.stopped",
                file,
                provider: Some(provider),
                version: Some(version),
                digest,
                reason: Some(reason),
            },
        };
        record(&accepter, news).await;
    }
}

/// What an entry tells of a component.
struct News {
    action: &'static str,
    file: String,
    provider: Option<ProviderId>,
    version: Option<String>,
    digest: String,
    reason: Option<String>,
}

impl News {
    fn of(action: &'static str, provider: Option<ProviderId>, report: ComponentReport) -> Self {
        Self {
            action,
            provider,
            version: report.descriptor.as_ref().map(|told| told.version.clone()),
            reason: reason(&report).map(ToOwned::to_owned),
            file: report.file,
            digest: report.digest,
        }
    }
}

/// Every process that loads a component sees it, at every start: only news is written.
async fn record(accepter: &Accepter, news: News) {
    let News { action, file, .. } = news;
    let shown = json!({
        "provider": news.provider.as_ref().map(ProviderId::as_str),
        "version": news.version,
        "digest": news.digest,
        "reason": news.reason,
    });
    let (now, process) = (accepter.clock.now(), accepter.process.clone());
    let entry = NewEntry::new(now, process, action, "component", &file)
        .after(&shown)
        .once();
    if let Err(error) = accepter.store.append_audit(vec![entry]).await {
        tracing::warn!(%error, action, file, "not in the audit trail");
    }
}

fn reason(report: &ComponentReport) -> Option<&str> {
    match &report.state {
        ComponentState::Rejected(reason) => Some(reason),
        _ => None,
    }
}

async fn tell_failure(
    accepter: &Accepter,
    provider: Option<&ProviderId>,
    report: &ComponentReport,
) {
    let payload = json!({
        "file": report.file,
        "provider": provider.map(ProviderId::as_str),
        "reason": reason(report).unwrap_or_default(),
    });
    accepter
        .emit_operational(operational::PROVIDER_FAILED, payload)
        .await;
}

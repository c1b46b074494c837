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
        match event {
            RegistryEvent::Changed => {}
            RegistryEvent::Serving { provider, report } => {
                let action = "component.serving";
                record(&accepter, action, Some(&provider), &report, None).await;
            }
            RegistryEvent::AwaitingGrant {
                provider, report, ..
            } => {
                let action = "component.awaiting_grant";
                record(&accepter, action, Some(&provider), &report, None).await;
            }
            RegistryEvent::Stopped {
                provider,
                report,
                reason,
            } => {
                let action = "component.stopped";
                record(&accepter, action, Some(&provider), &report, Some(&reason)).await;
            }
            RegistryEvent::Failed { provider, report } => {
                let action = "component.rejected";
                let reason = reason(&report);
                record(&accepter, action, provider.as_ref(), &report, reason).await;
                tell_failure(&accepter, provider.as_ref(), &report).await;
            }
        }
    }
}

/// Every process that loads a component sees it, at every start: only news is written.
async fn record(
    accepter: &Accepter,
    action: &'static str,
    provider: Option<&ProviderId>,
    report: &ComponentReport,
    reason: Option<&str>,
) {
    let descriptor = report.descriptor.as_ref();
    let shown = json!({
        "provider": provider.map(ProviderId::as_str),
        "version": descriptor.map(|descriptor| descriptor.version.as_str()),
        "digest": report.digest,
        "reason": reason,
    });
    let (now, process) = (accepter.clock.now(), accepter.process.clone());
    let entry = NewEntry::new(now, process, action, "component", &report.file)
        .after(&shown)
        .once();
    if let Err(error) = accepter.store.append_audit(vec![entry]).await {
        tracing::warn!(%error, action, file = report.file, "not in the audit trail");
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

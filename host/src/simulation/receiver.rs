//! Receivers, and the providers that call them: requests are lost, answers too, and some hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::stage::Stage;
use super::time::{one_of, pause};
use super::world::{Arrival, Call, Life, Said, World, lock};
use crate::domain::audit::Author;
use crate::domain::provider::{ComponentReport, Descriptor, Grant, ProviderId, ProviderReport};
use crate::domain::retry::RetryAdvice;
use crate::plugin::transform::Languages;
use crate::plugin::{
    CallFailure, CallReport, DeliverCall, GrantError, GuestDocument, OptionsCall, Providers,
    Receipt, SelectOption,
};

/// The deadline of a call: well within a lease.
pub(super) const CALL_MAX: Duration = Duration::from_secs(10);

/// What one process calls.
pub(super) struct Destinations {
    pub(super) world: Arc<World>,
    pub(super) stage: Arc<Stage>,
    pub(super) life: Arc<Life>,
    pub(super) incarnation: usize,
    /// Calls of the subscription with a concurrency of its own.
    pub(super) under_way: AtomicUsize,
}

fn report(result: Result<Receipt, CallFailure>, http_status: Option<u16>) -> CallReport<Receipt> {
    CallReport {
        result,
        logs: Vec::new(),
        http_status,
        unreachable: http_status.is_none(),
        version: "1.0.0".into(),
        elapsed: Duration::from_millis(1),
    }
}

fn refused(http_status: Option<u16>, retry: RetryAdvice) -> CallReport<Receipt> {
    let message = "refused".to_owned();
    report(Err(CallFailure::Provider { message, retry }), http_status)
}

impl Destinations {
    async fn request(&self, call: &DeliverCall) -> CallReport<Receipt> {
        let world = &self.world;
        world.time.sleep(pause(1..300)).await;
        self.life.pass().await;
        if world.strikes(world.plan.unreachable) {
            return refused(None, RetryAdvice::Default);
        }
        let said = self.answer(call);
        lock(&world.arrivals).push(Arrival {
            delivery: call.delivery_id,
            event: call.event.id,
            subscription: call.subscription_id,
            attempt: call.attempt,
            said,
        });
        if world.strikes(world.plan.hanging) {
            world.time.sleep(CALL_MAX).await;
            self.life.pass().await;
            return report(Err(CallFailure::Limit("the deadline".to_owned())), None);
        }
        world.time.sleep(pause(1..300)).await;
        self.life.pass().await;
        if world.strikes(world.plan.unanswered) {
            return refused(None, RetryAdvice::Default);
        }
        match said {
            Said::Yes => {
                let external_id = Some(format!("x-{}", call.delivery_id));
                let summary = "delivered".to_owned();
                report(
                    Ok(Receipt {
                        external_id,
                        summary,
                    }),
                    Some(200),
                )
            }
            Said::Busy => refused(
                Some(503),
                one_of([
                    RetryAdvice::Default,
                    RetryAdvice::After(Duration::from_secs(7)),
                ]),
            ),
            Said::No => refused(Some(400), RetryAdvice::Never),
            Said::Gone => refused(Some(410), RetryAdvice::Never),
        }
    }

    fn answer(&self, call: &DeliverCall) -> Said {
        if !self.world.strikes(self.world.plan.refused) {
            return Said::Yes;
        }
        let id = call.subscription_id;
        if id == self.stage.doomed && self.world.strikes(0.1) {
            Said::Gone
        } else if id == self.stage.strict && self.world.strikes(0.3) {
            Said::No
        } else {
            Said::Busy
        }
    }
}

#[async_trait]
impl Providers for Destinations {
    fn reports(&self) -> Vec<ProviderReport> {
        Vec::new()
    }

    fn rejected_files(&self) -> Vec<ComponentReport> {
        Vec::new()
    }

    fn descriptor(&self, _: &ProviderId) -> Option<Arc<Descriptor>> {
        None
    }

    async fn deliver(&self, _: &ProviderId, call: DeliverCall) -> CallReport<Receipt> {
        let limited = call.subscription_id == self.stage.limited;
        let before = self
            .under_way
            .fetch_add(usize::from(limited), Ordering::Relaxed);
        lock(&self.world.calls).push(Call {
            incarnation: self.incarnation,
            subscription: call.subscription_id,
            begun_at_ms: self.world.time.elapsed_ms(),
            under_way: before + 1,
        });
        let report = self.request(&call).await;
        self.under_way
            .fetch_sub(usize::from(limited), Ordering::Relaxed);
        report
    }

    async fn test_connection(&self, _: &ProviderId, _: GuestDocument) -> CallReport<String> {
        CallReport::failed(unused())
    }

    async fn options(&self, _: &ProviderId, _: OptionsCall) -> CallReport<Vec<SelectOption>> {
        CallReport::failed(unused())
    }

    fn takes(&self, _: &ProviderId, _: &DeliverCall) -> bool {
        true
    }

    async fn grant(
        &self,
        id: &ProviderId,
        _: Grant,
        _: Author,
    ) -> Result<ProviderReport, GrantError> {
        Err(GrantError::UnknownProvider(id.clone()))
    }
}

fn unused() -> CallFailure {
    CallFailure::Unavailable("nobody asks in a simulation".to_owned())
}

/// Events whose number the filter does not want.
pub(super) fn is_filtered(number: u64) -> bool {
    number.is_multiple_of(4)
}

/// One program: it wants what [`is_filtered`] does not take.
#[async_trait]
impl Languages for Destinations {
    async fn check(&self, _: &ProviderId, _: Arc<str>) -> CallReport<()> {
        CallReport::failed(unused())
    }

    async fn run(
        &self,
        _: &ProviderId,
        _: Arc<str>,
        input: Arc<str>,
        _: u32,
    ) -> CallReport<Vec<String>> {
        let mut report = CallReport::failed(CallFailure::Limit("the CPU budget".to_owned()));
        if !self.world.strikes(self.world.plan.failing_filters) {
            let input: serde_json::Value = serde_json::from_str(&input).unwrap_or_default();
            let number = input["payload"]["number"].as_u64().unwrap_or(0);
            report.result = Ok(vec![(!is_filtered(number)).to_string()]);
        }
        report
    }
}

//! The registry as the ingress and the dispatcher see it: sources and languages.

use std::sync::Arc;

use async_trait::async_trait;

use super::Registry;
use crate::domain::provider::{ComponentKind, Descriptor, ProviderId};
use crate::plugin::CallReport;
use crate::plugin::source::{Normalized, Sources, Webhook};
use crate::plugin::transform::Languages;

#[async_trait]
impl Sources for Registry {
    fn source(&self, id: &ProviderId) -> Option<Arc<Descriptor>> {
        self.descriptor_of(ComponentKind::Source, id)
    }

    async fn verify(&self, id: &ProviderId, webhook: Webhook) -> CallReport<()> {
        match self.serving(id) {
            Ok(serving) => serving.component.verify(webhook).await,
            Err(failure) => CallReport::failed(failure),
        }
    }

    async fn normalize(&self, id: &ProviderId, webhook: Webhook) -> CallReport<Normalized> {
        match self.serving(id) {
            Ok(serving) => serving.component.normalize(webhook).await,
            Err(failure) => CallReport::failed(failure),
        }
    }
}

#[async_trait]
impl Languages for Registry {
    async fn check(&self, language: &ProviderId, program: Arc<str>) -> CallReport<()> {
        match self.serving(language) {
            Ok(serving) => serving.component.check_program(program).await,
            Err(failure) => CallReport::failed(failure),
        }
    }

    async fn run(
        &self,
        language: &ProviderId,
        program: Arc<str>,
        input: Arc<str>,
        outputs_max: u32,
    ) -> CallReport<Vec<String>> {
        match self.serving(language) {
            Ok(serving) => {
                serving
                    .component
                    .run_program(program, input, outputs_max)
                    .await
            }
            Err(failure) => CallReport::failed(failure),
        }
    }
}

//! Calls of the world `transform`: small programs over JSON, for filters and transforms.

use std::sync::Arc;

use async_trait::async_trait;
use wasmtime::Store;

use super::bindings::transform::Transform;
use super::call::AsyncCall;
use super::component::LoadedComponent;
use super::state::{CallState, MESSAGE_BYTES_MAX};
use super::{CallFailure, CallReport, GuestDocument};
use crate::domain::provider::ProviderId;
use crate::domain::retry::RetryAdvice;

/// The languages of filters and transforms, as those see them who run programs.
#[async_trait]
pub trait Languages: Send + Sync + 'static {
    /// Whether `program` is one. A `Provider` failure says what is wrong, where.
    async fn check(&self, language: &ProviderId, program: Arc<str>) -> CallReport<()>;

    /// The outputs of `program` for `input`, at most `outputs_max`; all JSON text as the
    /// component returned it. A `Provider` failure is the program's own error.
    async fn run(
        &self,
        language: &ProviderId,
        program: Arc<str>,
        input: Arc<str>,
        outputs_max: u32,
    ) -> CallReport<Vec<String>>;
}

impl LoadedComponent {
    /// Whether the text is a program of this language.
    pub async fn check_program(&self, program: Arc<str>) -> CallReport<()> {
        let context = self.context(GuestDocument::default(), None, "program".into(), None);
        self.run(context, Check(program)).await
    }

    /// The outputs of a program.
    pub async fn run_program(
        &self,
        program: Arc<str>,
        input: Arc<str>,
        outputs_max: u32,
    ) -> CallReport<Vec<String>> {
        let context = self.context(GuestDocument::default(), None, "program".into(), None);
        let call = Run {
            program,
            input,
            outputs_max,
        };
        self.run(context, call).await
    }
}

struct Check(Arc<str>);

impl AsyncCall<()> for Check {
    type World = Transform;

    async fn call(
        self,
        language: &Transform,
        store: &mut Store<CallState>,
    ) -> wasmtime::Result<Result<(), CallFailure>> {
        let answer = language.call_check(&mut *store, &self.0).await?;
        Ok(answer.map_err(|text| own_error(store, text)))
    }
}

struct Run {
    program: Arc<str>,
    input: Arc<str>,
    outputs_max: u32,
}

impl AsyncCall<Vec<String>> for Run {
    type World = Transform;

    async fn call(
        self,
        language: &Transform,
        store: &mut Store<CallState>,
    ) -> wasmtime::Result<Result<Vec<String>, CallFailure>> {
        let answer = language
            .call_run(
                &mut *store,
                &self.program,
                &self.input.to_string(),
                self.outputs_max,
            )
            .await?;
        let most = usize::try_from(self.outputs_max).unwrap_or(usize::MAX);
        Ok(answer
            .map(|mut outputs| {
                outputs.truncate(most);
                outputs
            })
            .map_err(|text| own_error(store, text)))
    }
}

fn own_error(store: &Store<CallState>, text: String) -> CallFailure {
    CallFailure::Provider {
        message: store.data().shared.sanitize(text, MESSAGE_BYTES_MAX),
        retry: RetryAdvice::Never,
    }
}

//! The worlds of the contract, so that one path loads and calls components of each.
//!
//! A component's world is told by what it exports. The identifiers of all worlds are one set: an
//! id names one component, whatever it does.

use wasmtime::component::{Component, InstancePre};
use wasmtime::{Engine, Store};

use super::bindings::hookport::provider::types::Descriptor;
use super::bindings::source::{Source, SourcePre};
use super::bindings::transform::{Transform, TransformPre};
use super::bindings::{Provider, ProviderPre};
use super::engine::LoadedCode;
use super::state::CallState;
use crate::domain::provider::ComponentKind;

/// A component that was linked as one of the worlds.
#[derive(Clone)]
pub(super) enum WorldPre {
    Provider(ProviderPre<CallState>),
    Source(SourcePre<CallState>),
    Transform(TransformPre<CallState>),
}

impl WorldPre {
    pub(super) fn new(kind: ComponentKind, pre: InstancePre<CallState>) -> wasmtime::Result<Self> {
        Ok(match kind {
            ComponentKind::Provider => Self::Provider(ProviderPre::new(pre)?),
            ComponentKind::Source => Self::Source(SourcePre::new(pre)?),
            ComponentKind::Transform => Self::Transform(TransformPre::new(pre)?),
        })
    }

    pub(super) fn kind(&self) -> ComponentKind {
        match self {
            Self::Provider(_) => ComponentKind::Provider,
            Self::Source(_) => ComponentKind::Source,
            Self::Transform(_) => ComponentKind::Transform,
        }
    }
}

/// The world that a component's exports belong to: the function that only that world has. A
/// component with none of them is taken for a provider, whose check then names what is missing.
pub(super) fn kind_of(component: &Component, engine: &Engine) -> ComponentKind {
    let exports = |function: &str| {
        component
            .component_type()
            .exports(engine)
            .any(|(name, _)| name == function)
    };
    if exports("normalize") {
        ComponentKind::Source
    } else if exports("run") {
        ComponentKind::Transform
    } else {
        ComponentKind::Provider
    }
}

/// The generated bindings of one world.
pub(super) trait World: Sized + Send + Sync + 'static {
    type Pre: Clone + Send + Sync + 'static;

    /// `None` for a component of another world.
    fn pre(code: &LoadedCode) -> Option<Self::Pre>;

    fn instantiate(
        pre: &Self::Pre,
        store: &mut Store<CallState>,
    ) -> impl Future<Output = wasmtime::Result<Self>> + Send;

    fn describe(
        &self,
        store: &mut Store<CallState>,
    ) -> impl Future<Output = wasmtime::Result<Descriptor>> + Send;
}

macro_rules! worlds {
    ($($world:ident($pre:ident)),*) => {$(
        impl World for $world {
            type Pre = $pre<CallState>;

            fn pre(code: &LoadedCode) -> Option<Self::Pre> {
                match &code.pre {
                    WorldPre::$world(pre) => Some(pre.clone()),
                    _ => None,
                }
            }

            async fn instantiate(
                pre: &Self::Pre,
                store: &mut Store<CallState>,
            ) -> wasmtime::Result<Self> {
                pre.instantiate_async(store).await
            }

            async fn describe(&self, store: &mut Store<CallState>) -> wasmtime::Result<Descriptor> {
                self.call_describe(store).await
            }
        }
    )*};
}

worlds!(
    Provider(ProviderPre),
    Source(SourcePre),
    Transform(TransformPre)
);

//! Pre-initialising a component when it is built (Wizer): its function `wizer-initialize` is run,
//! and what it leaves in memory becomes the component's initial state.
//!
//! For authors, on their own components: the code runs with WASI's clocks and random numbers and
//! nothing of ours, without the limits of a call. The gateway itself never does this to a file of
//! the providers directory.

use wasmtime::component::types::{self, ComponentItem};
use wasmtime::component::{
    Component, Instance, Lift, Linker, ResourceTable, ResourceType, WasmList,
};
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

const FUNCTION: &str = "wizer-initialize";

/// Why a component was not pre-initialised.
#[derive(Debug, thiserror::Error)]
#[error("the component cannot be pre-initialised: {0}")]
pub struct PreinitializeError(String);

impl From<wasmtime::Error> for PreinitializeError {
    fn from(error: wasmtime::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// The component with its state after `wizer-initialize`. The export stays, as Wizer cannot take it
/// out of a component; nobody calls it again.
///
/// # Errors
/// When it has no such function, or the function traps.
pub async fn preinitialize(wasm: &[u8]) -> Result<Vec<u8>, PreinitializeError> {
    let mut wizer = Wizer::new();
    wizer.init_func(FUNCTION).keep_init_func(true);
    let (context, instrumented) = wizer.instrument_component(wasm)?;
    let mut config = Config::new();
    config.wasm_component_model(true);
    let engine = Engine::new(&config)?;
    let component = Component::new(&engine, &instrumented)?;
    let mut linker = Linker::<State>::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    for (name, import) in component.component_type().imports(&engine) {
        // Not WASI's, although the linker could do that too: it would hide the compatible version
        // that was just defined.
        let is_wasi = name.starts_with("wasi:") && !name.starts_with("wasi:http/");
        if let ComponentItem::ComponentInstance(interface) = import.ty
            && !is_wasi
        {
            define_as_traps(&engine, &mut linker, name, &interface)?;
        }
    }
    let state = State {
        table: ResourceTable::new(),
        wasi: WasiCtx::builder().build(),
    };
    let mut store = Store::new(&engine, state);
    let instance = linker.instantiate_async(&mut store, &component).await?;
    let prepare = instance.get_typed_func::<(), ()>(&mut store, FUNCTION)?;
    prepare.call_async(&mut store, ()).await?;
    let mut running = Running {
        store: &mut store,
        instance,
    };
    Ok(wizer.snapshot_component(&context, &mut running).await?)
}

/// Ends the initialisation when it calls anything of the interface.
fn define_as_traps(
    engine: &Engine,
    linker: &mut Linker<State>,
    name: &str,
    interface: &types::ComponentInstance,
) -> wasmtime::Result<()> {
    let mut instance = linker.instance(name)?;
    for (item, export) in interface.exports(engine) {
        match export.ty {
            ComponentItem::ComponentFunc(_) => {
                let called = format!("{name}#{item}");
                instance.func_new(item, move |_, _, _, _| {
                    wasmtime::bail!("{called} was called, and nobody is there to answer yet")
                })?;
            }
            ComponentItem::Resource(_) => {
                instance.resource(item, ResourceType::host::<()>(), |_, _| Ok(()))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// What Wizer asks of the instance. Its functions are Wizer's own: that they are there is Wizer's
/// invariant.
struct Running<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
}

impl Running<'_> {
    async fn call<R: Lift + Send + Sync + 'static>(&mut self, instance: &str, function: &str) -> R {
        let (_, of) = self
            .instance
            .get_export(&mut *self.store, None, instance)
            .expect("invariant: Wizer exports this instance");
        let (_, index) = self
            .instance
            .get_export(&mut *self.store, Some(&of), function)
            .expect("invariant: Wizer exports this function");
        let function = self
            .instance
            .get_typed_func::<(), (R,)>(&mut *self.store, index)
            .expect("invariant: Wizer's function has this type");
        let called = function.call_async(&mut *self.store, ()).await;
        called.expect("invariant: Wizer's function only reads").0
    }
}

impl ComponentInstanceState for Running<'_> {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        function: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        let list: WasmList<u8> = self.call(instance, function).await;
        contents(list.as_le_slice(&*self.store));
    }

    async fn call_func_ret_s32(&mut self, instance: &str, function: &str) -> i32 {
        self.call(instance, function).await
    }

    async fn call_func_ret_s64(&mut self, instance: &str, function: &str) -> i64 {
        self.call(instance, function).await
    }

    async fn call_func_ret_f32(&mut self, instance: &str, function: &str) -> u32 {
        self.call::<f32>(instance, function).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, function: &str) -> u64 {
        self.call::<f64>(instance, function).await.to_bits()
    }
}

//! The wasmtime engine: its settings, its linker, its ticking clock; compiling and loading.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig,
};

use super::artefact::TrustedArtefact;
use super::bindings::Provider;
use super::state::CallState;
use super::turns::Turns;
use super::world::{self, WorldPre};
use crate::coord::sealed::SealedValues;
use crate::egress::Egress;
use crate::metrics::SandboxCalls;

/// Length of an epoch: a spinning guest holds a thread for so long before it yields, and CPU
/// time is counted in this unit.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// Memories and tables that the pool sets aside for each call; a component that has more takes
/// the places of several calls.
const MEMORIES_A_PERMIT: u32 = 2;
const TABLES_A_PERMIT: u32 = 2;
const CORE_INSTANCES_MAX: u32 = 50;
const DECOMMIT_BATCH: u32 = 16;

/// What every component may import: our interfaces at the versions served, and WASI 0.2.
const IMPORTS_SERVED: [&str; 7] = [
    "hookport:provider/types@0.1.0",
    "hookport:provider/secrets@0.1.0",
    "hookport:provider/http@0.1.0",
    "hookport:provider/log@0.1.0",
    "hookport:provider/cache@0.1.0",
    "hookport:provider/oauth2@0.1.0",
    "hookport:provider/inbound@0.1.0",
];

/// The version of the contract that is served, for messages.
pub const WIT_SERVED: &str = "hookport:provider@0.1.0 with WASI 0.2";

/// Settings of the engine as a whole.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Calls in the sandbox at one time, over all providers.
    pub calls_max: u32,
    /// The largest linear memory that any provider may be given.
    pub memory_bytes_max: usize,
    /// The largest table.
    pub table_elements_max: usize,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            calls_max: 256,
            memory_bytes_max: 64 << 20,
            table_elements_max: 20_000,
        }
    }
}

/// Why a file is not a usable component.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not a component at all, or not one that can be compiled.
    #[error("{0}")]
    Foreign(String),
    /// It wants a contract that is not served.
    #[error("{0}")]
    Incompatible(String),
    /// It needs more than the engine's pool gives.
    #[error("the component needs {0}")]
    TooLarge(String),
    /// The engine failed.
    #[error("the component cannot be loaded: {0}")]
    Engine(String),
}

/// The engine with everything that is set up once.
pub struct Sandbox {
    engine: Engine,
    linker: Linker<CallState>,
    config: SandboxConfig,
    is_pooled: bool,
    pub(super) egress: Arc<Egress>,
    /// What guests and tokens share with other processes.
    pub(super) shared: OnceLock<Arc<SealedValues>>,
    /// What it was called for.
    pub calls: SandboxCalls,
    /// One permit a pool slot: a call waits here instead of failing in the pool.
    pub(super) slots: Arc<Semaphore>,
    /// Calls that compute for long take turns here.
    pub(super) turns: Turns,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").finish_non_exhaustive()
    }
}

fn base_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .epoch_interruption(true)
        .concurrency_support(false)
        .max_wasm_stack(512 << 10)
        .async_stack_size(2 << 20)
        .memory_init_cow(true)
        .parallel_compilation(true);
    config
}

/// Slots that are on their way back to the pool and in nobody's hands: each thread collects a
/// batch and then returns one. A call that needs a slot meanwhile is refused, however few run,
/// unless there are as many to spare.
fn slots_in_transit() -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = u32::try_from(threads).unwrap_or(u32::MAX).min(256);
    threads * 2 * DECOMMIT_BATCH
}

fn pooling_config(limits: &SandboxConfig) -> PoolingAllocationConfig {
    let calls = limits.calls_max;
    let spare = slots_in_transit();
    let slots = |for_each_call: u32| calls.saturating_mul(for_each_call).saturating_add(spare);
    let mut pool = PoolingAllocationConfig::new();
    // Core instances are only counted, not reserved: what one component may have is the limit.
    pool.total_component_instances(slots(1))
        .total_core_instances(slots(CORE_INSTANCES_MAX))
        .total_memories(slots(MEMORIES_A_PERMIT))
        .total_tables(slots(TABLES_A_PERMIT))
        .total_stacks(slots(1))
        .max_memory_size(limits.memory_bytes_max)
        .table_elements(limits.table_elements_max)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(4)
        .max_tables_per_component(8)
        .max_unused_warm_slots(100)
        .linear_memory_keep_resident(1 << 20)
        .table_keep_resident(64 << 10)
        .decommit_batch_size(DECOMMIT_BATCH as usize)
        .pagemap_scan(Enabled::Auto);
    pool
}

impl Sandbox {
    /// Sets the engine up and starts its clock.
    ///
    /// # Errors
    /// When the engine cannot be set up on this machine at all.
    pub fn new(config: SandboxConfig, egress: Arc<Egress>) -> Result<Self, LoadError> {
        let (engine, is_pooled) =
            engine(&config).map_err(|error| LoadError::Engine(format!("{error:#}")))?;
        let linker = linker(&engine).map_err(|error| LoadError::Engine(format!("{error:#}")))?;
        start_clock(engine.weak()).map_err(|error| LoadError::Engine(error.to_string()))?;
        Ok(Self {
            slots: Arc::new(Semaphore::new(
                usize::try_from(config.calls_max).unwrap_or(Semaphore::MAX_PERMITS),
            )),
            turns: Turns::default(),
            calls: SandboxCalls::default(),
            engine,
            linker,
            config,
            is_pooled,
            egress,
            shared: OnceLock::new(),
        })
    }

    /// Its caches are shared with other processes from now on; the first word counts.
    pub fn share(&self, values: SealedValues) {
        let _ = self.shared.set(Arc::new(values));
    }

    /// Changes whenever artefacts of another engine would not run here.
    #[must_use]
    pub fn compatibility_hash(&self) -> u64 {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        BuildHasherDefault::<DefaultHasher>::default()
            .hash_one(HashOf(self.engine.precompile_compatibility_hash()))
    }

    /// Makes an artefact callable: checks what it imports, exports and needs, without running it.
    ///
    /// # Errors
    /// Each kind of [`LoadError`].
    pub fn load(&self, artefact: &TrustedArtefact) -> Result<LoadedCode, LoadError> {
        let component = artefact
            .load(&self.engine)
            .map_err(|error| LoadError::Engine(format!("{error:#}")))?;
        check_imports(&component, &self.engine)?;
        let permits = self.check_resources(&component)?;
        let kind = world::kind_of(&component, &self.engine);
        let pre = self
            .linker
            .instantiate_pre(&component)
            .and_then(|pre| WorldPre::new(kind, pre))
            .map_err(|error| {
                LoadError::Incompatible(format!(
                    "the component does not fit the world `{kind}` of {WIT_SERVED}: {error:#}"
                ))
            })?;
        component
            .initialize_copy_on_write_image()
            .map_err(|error| LoadError::Engine(format!("{error:#}")))?;
        Ok(LoadedCode { pre, permits })
    }

    /// Refuses what the pool cannot hold; says how many calls' places one call takes.
    fn check_resources(&self, component: &Component) -> Result<u32, LoadError> {
        let Some(needed) = component.resources_required() else {
            return Err(LoadError::TooLarge(
                "an unknown number of memories: it imports modules or instances".to_owned(),
            ));
        };
        let memory = needed.max_initial_memory_size.unwrap_or(0);
        if memory > u64::try_from(self.config.memory_bytes_max).unwrap_or(u64::MAX) {
            return Err(LoadError::TooLarge(format!(
                "{memory} bytes of initial memory, more than {}",
                self.config.memory_bytes_max
            )));
        }
        let elements = needed.max_initial_table_size.unwrap_or(0);
        if elements > u64::try_from(self.config.table_elements_max).unwrap_or(u64::MAX) {
            return Err(LoadError::TooLarge(format!(
                "a table of {elements} elements, more than {}",
                self.config.table_elements_max
            )));
        }
        if needed.num_memories > 4 || needed.num_tables > 8 {
            return Err(LoadError::TooLarge(format!(
                "{} memories and {} tables, more than 4 and 8",
                needed.num_memories, needed.num_tables
            )));
        }
        let memories = needed.num_memories.div_ceil(MEMORIES_A_PERMIT);
        let tables = needed.num_tables.div_ceil(TABLES_A_PERMIT);
        Ok(memories.max(tables).clamp(1, self.config.calls_max.max(1)))
    }

    /// Whether instances come from a pool, or each call allocates for itself.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Places in the pool: how many there are.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.config.calls_max
    }

    /// How many of them calls have.
    #[must_use]
    pub fn slots_in_use(&self) -> u32 {
        let free = u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX);
        self.config.calls_max.saturating_sub(free)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }
}

struct HashOf<T>(T);

impl<T: std::hash::Hash> std::hash::Hash for HashOf<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// A checked component, ready to be instantiated.
#[derive(Clone)]
pub struct LoadedCode {
    pub(super) pre: WorldPre,
    /// Places in the pool that one call takes.
    pub(super) permits: u32,
}

impl std::fmt::Debug for LoadedCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoadedCode")
    }
}

/// Compiles a component for the engine of `config`. Heavy and not a security boundary: the
/// gateway runs it in a limited child process.
///
/// # Errors
/// `Foreign` when `wasm` is no component or does not compile.
pub fn compile(wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    check_header(wasm)?;
    let engine =
        Engine::new(&base_config()).map_err(|error| LoadError::Engine(format!("{error:#}")))?;
    engine
        .precompile_component(wasm)
        .map_err(|error| LoadError::Foreign(format!("not a valid component: {error:#}")))
}

/// Tells what a file is by its first bytes, for messages that say what to do.
///
/// # Errors
/// `Foreign` unless it begins like a component.
pub fn check_header(wasm: &[u8]) -> Result<(), LoadError> {
    let foreign = |text: &str| Err(LoadError::Foreign(text.to_owned()));
    if Engine::detect_precompiled(wasm).is_some() {
        return foreign(
            "a precompiled artefact: drop the .wasm component itself, the gateway compiles it",
        );
    }
    match wasm.get(..8) {
        Some([0, b'a', b's', b'm', 0x0d, 0, 1, 0]) => Ok(()),
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => foreign(
            "a core WebAssembly module, not a component: build it for wasm32-wasip2, or wrap it with wasm-tools component new",
        ),
        Some([0, b'a', b's', b'm', ..]) => foreign("a WebAssembly binary of an unknown version"),
        Some(_) => foreign("not a WebAssembly component"),
        None => foreign("shorter than a WebAssembly header: the file is truncated"),
    }
}

/// The engine, and whether it has a pool.
fn engine(config: &SandboxConfig) -> wasmtime::Result<(Engine, bool)> {
    let mut pooled = base_config();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling_config(config)));
    match Engine::new(&pooled) {
        Ok(engine) => Ok((engine, true)),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "the instance pool does not fit into the address space; falling back to on-demand allocation, which is slower"
            );
            Ok((Engine::new(&base_config())?, false))
        }
    }
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<CallState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Provider::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// Advances the epoch for as long as the engine lives.
fn start_clock(engine: EngineWeak) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })
        .map(drop)
}

fn check_imports(component: &Component, engine: &Engine) -> Result<(), LoadError> {
    for (name, _) in component.component_type().imports(engine) {
        let served = IMPORTS_SERVED.contains(&name)
            || (name.starts_with("wasi:") && name.rsplit_once("@0.2.").is_some());
        if !served {
            return Err(LoadError::Incompatible(format!(
                "imports {name}, which is not served: this gateway has {WIT_SERVED}"
            )));
        }
    }
    Ok(())
}

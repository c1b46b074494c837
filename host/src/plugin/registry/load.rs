//! From a file to a component that can be called: read, compile or take from the cache, check,
//! describe.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::RegistryConfig;
use super::code_cache::CodeCache;
use super::directory::{self, Content, ReadError};
use super::manifest::{self, Manifest};
use super::state::{Look, Outcome, Version};
use crate::plugin::artefact::TrustedArtefact;
use crate::plugin::compile_child::Compiler;
use crate::plugin::component;
use crate::plugin::engine::{LoadError, LoadedCode, Sandbox, check_header};

/// Files read or compiled at one time.
const LOADS_MAX: usize = 16;

/// Everything that loading needs.
pub(super) struct Loader {
    directory: PathBuf,
    compiler: Compiler,
    cache: Option<Arc<CodeCache>>,
    sandbox: Arc<Sandbox>,
    /// Bounds the memory that the content of files under way takes.
    under_way: Semaphore,
}

/// The component's own fault, in words for the admin.
struct Fault(String);

impl Loader {
    /// Opens the code cache, and goes without it when it cannot be used.
    pub(super) fn new(config: &RegistryConfig, sandbox: Arc<Sandbox>) -> Self {
        let cache = config.cache_directory.as_deref().and_then(|directory| {
            let opened = CodeCache::open(
                directory,
                sandbox.compatibility_hash(),
                config.cache_limits.clone(),
            );
            match opened {
                Ok(cache) => Some(Arc::new(cache)),
                Err(error) => {
                    tracing::error!(%error, "compiled code is not cached; every start compiles anew");
                    None
                }
            }
        });
        Self {
            directory: config.directory.clone(),
            compiler: config.compiler.clone(),
            cache,
            sandbox,
            under_way: Semaphore::new(LOADS_MAX),
        }
    }

    pub(super) async fn load(&self, look: &Look) -> Outcome {
        let Ok(_turn) = self.under_way.acquire().await else {
            return Outcome::Changing;
        };
        let path = self.directory.join(&look.file);
        let bytes_max = self.compiler.limits().wasm_bytes_max;
        let signature = look.signature;
        let read = blocking(move || directory::read(&path, signature, bytes_max)).await;
        let content = match read {
            Ok(Ok(content)) => content,
            Ok(Err(ReadError::Changing)) => return Outcome::Changing,
            Ok(Err(ReadError::TooLarge)) => {
                return refused("", format!("the file is larger than {bytes_max} bytes"));
            }
            Ok(Err(ReadError::Io(error))) => {
                return refused("", format!("the file cannot be read: {error}"));
            }
            Err(Fault(text)) => return refused("", text),
        };
        if let Some(known) = &look.accepted
            && known.digest == content.digest
        {
            return Outcome::Ready(known.clone());
        }
        let digest = content.digest.clone();
        match self.version(&look.file, content).await {
            Ok(version) => Outcome::Ready(Arc::new(version)),
            Err(Fault(reason)) => refused(&digest, reason),
        }
    }

    async fn version(&self, file: &str, content: Content) -> Result<Version, Fault> {
        let Content { bytes, digest } = content;
        let manifest = verify(&bytes).map_err(Fault)?;
        let code = match self.cached_code(&digest).await? {
            Some(code) => code,
            None => self.compiled(bytes, &digest).await?,
        };
        // Describing is the smoke call, too: a component that cannot do this much serves nothing.
        let descriptor = component::describe(&self.sandbox, &code)
            .await
            .map_err(|failure| Fault(failure.to_string()))?;
        if let Some(manifest) = manifest {
            manifest.check_descriptor(&descriptor).map_err(Fault)?;
        }
        Ok(Version {
            file: file.to_owned(),
            digest,
            code,
            descriptor: Arc::new(descriptor),
            preparation: Mutex::default(),
        })
    }

    /// A cached artefact that the engine does not take counts as none.
    async fn cached_code(&self, digest: &str) -> Result<Option<LoadedCode>, Fault> {
        let Some(cache) = self.cache.clone() else {
            return Ok(None);
        };
        let (sandbox, digest) = (self.sandbox.clone(), digest.to_owned());
        blocking(move || {
            let Some(artefact) = cache.get(&digest) else {
                return Ok(None);
            };
            match sandbox.load(&artefact) {
                Ok(code) => Ok(Some(code)),
                Err(LoadError::Engine(error)) => {
                    tracing::warn!(digest, error, "a cached artefact is compiled anew");
                    Ok(None)
                }
                Err(error) => Err(Fault(error.to_string())),
            }
        })
        .await?
    }

    async fn compiled(&self, wasm: Bytes, digest: &str) -> Result<LoadedCode, Fault> {
        let artefact = self
            .compiler
            .compile(wasm)
            .await
            .map_err(|error| Fault(error.to_string()))?;
        let (sandbox, cache) = (self.sandbox.clone(), self.cache.clone());
        let digest = digest.to_owned();
        blocking(move || {
            let code = sandbox
                .load(&artefact)
                .map_err(|error| Fault(error.to_string()));
            keep(cache.as_deref(), &digest, &artefact);
            code
        })
        .await?
    }
}

/// What can be told of a file before anything is spent on it.
fn verify(wasm: &[u8]) -> Result<Option<Manifest>, String> {
    check_header(wasm).map_err(|error| error.to_string())?;
    let manifest = manifest::read(wasm)?;
    if let Some(manifest) = &manifest {
        manifest.check_contract()?;
    }
    Ok(manifest)
}

/// Caches what was compiled, refused or not: the same file is not compiled twice to be refused.
fn keep(cache: Option<&CodeCache>, digest: &str, artefact: &TrustedArtefact) {
    if let Some(cache) = cache {
        cache.put(digest, artefact);
    }
}

fn refused(digest: &str, reason: String) -> Outcome {
    Outcome::Refused {
        digest: digest.to_owned(),
        reason,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Fault(format!("loading failed: {error}")))
}

/// Who the component in `file` is, for `hookport provider inspect`: compiled and described like
/// any other, with nothing granted and nothing kept.
///
/// # Errors
/// In words for the admin.
pub async fn inspect(
    file: &Path,
    compiler: &Compiler,
    sandbox: &Sandbox,
) -> Result<(String, crate::domain::provider::Descriptor), String> {
    let bytes_max = compiler.limits().wasm_bytes_max;
    let signature =
        directory::signature(file).ok_or_else(|| format!("{}: no such file", file.display()))?;
    let content = directory::read(file, signature, bytes_max)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    verify(&content.bytes)?;
    let artefact = compiler
        .compile(content.bytes)
        .await
        .map_err(|error| error.to_string())?;
    let code = sandbox.load(&artefact).map_err(|error| error.to_string())?;
    let descriptor = component::describe(sandbox, &code)
        .await
        .map_err(|failure| failure.to_string())?;
    Ok((content.digest, descriptor))
}

//! The one place that trusts bytes: compiled artefacts that this gateway wrote itself.

use bytes::Bytes;
use wasmtime::Engine;
use wasmtime::component::Component;

/// A compiled component that came from [`super::engine::Sandbox::compile`] of this gateway's own
/// binary: straight from its compile child, or from the code cache after its tag was verified.
pub struct TrustedArtefact(Bytes);

impl TrustedArtefact {
    /// Vouches for `bytes`. Call this only where their origin has been established.
    #[must_use]
    pub fn vouch(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, to be written to the code cache.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        #[expect(
            unsafe_code,
            reason = "deserialising runs machine code as it stands; `vouch` is called only for output of our own compiler"
        )]
        // SAFETY: the bytes are unmodified output of `Engine::precompile_component`: they come
        // over a pipe from a child running this same binary, or from a cache file whose HMAC
        // under the gateway's own key was verified. wasmtime checks version and settings itself.
        unsafe {
            Component::deserialize(engine, &self.0)
        }
    }
}

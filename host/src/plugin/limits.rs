//! What one call may cost, and the accountant that sums it over a wasmtime store.

use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use crate::domain::provider::ComponentKind;

/// Limits of one provider's calls. Defaults suit a provider that renders templates and makes a
/// few requests; each can be overridden per provider in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Linear memory, summed over all memories of the call.
    pub memory_bytes_max: usize,
    /// Table elements, summed over all tables of the call.
    pub table_elements_max: usize,
    /// Core instances of the call.
    pub instances_max: usize,
    /// CPU time in WebAssembly, in milliseconds, counted in ticks of the epoch.
    pub cpu_ms_max: u32,
    /// Wall-clock deadline of a call where the subscription sets none, in milliseconds.
    pub timeout_ms: u32,
    /// HTTP requests of a call, through either import.
    pub http_calls_max: u32,
    /// Request body, in bytes.
    pub request_bytes_max: usize,
    /// Response body after decoding, in bytes.
    pub response_bytes_max: usize,
    /// Response headers, in bytes.
    pub response_header_bytes_max: usize,
    /// Lines kept of what the guest logs and writes to stdout and stderr.
    pub log_lines_max: usize,
    /// Bytes kept of the same.
    pub log_bytes_max: usize,
    /// Live handles, and entries of the host's resource table.
    pub handles_max: usize,
    /// Calls running at the same time.
    pub concurrency_max: usize,
    /// Bytes in the provider's cache, over all scopes.
    pub cache_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 << 20,
            table_elements_max: 20_000,
            instances_max: 50,
            cpu_ms_max: 1_000,
            timeout_ms: 30_000,
            http_calls_max: 20,
            request_bytes_max: 4 << 20,
            response_bytes_max: 4 << 20,
            response_header_bytes_max: 64 << 10,
            log_lines_max: 200,
            log_bytes_max: 32 << 10,
            handles_max: 1_000,
            concurrency_max: 384,
            cache_bytes_max: 1 << 20,
        }
    }
}

impl Limits {
    /// These limits for a component of that kind: a source or a program runs while a sender waits,
    /// and has no network to wait for.
    #[must_use]
    pub fn for_kind(&self, kind: ComponentKind) -> Self {
        let quick = |cpu_ms: u32, timeout_ms: u32| Self {
            cpu_ms_max: self.cpu_ms_max.min(cpu_ms),
            timeout_ms: self.timeout_ms.min(timeout_ms),
            http_calls_max: 0,
            ..self.clone()
        };
        match kind {
            ComponentKind::Provider => self.clone(),
            ComponentKind::Source => quick(500, 5_000),
            ComponentKind::Transform => quick(100, 2_000),
        }
    }

    /// Bytes that the guest may hand to the host in one host call: a request body with its
    /// headers, or the result of an export.
    pub(super) fn transfer_bytes_max(&self) -> usize {
        self.request_bytes_max.saturating_add(1 << 20)
    }
}

/// Sums memories, tables and instances over the whole store, and remembers what was refused.
#[derive(Debug)]
pub(super) struct StoreLimiter {
    memory_left: usize,
    elements_left: usize,
    instances_max: usize,
    refused: Option<&'static str>,
}

impl StoreLimiter {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            memory_left: limits.memory_bytes_max,
            elements_left: limits.table_elements_max,
            instances_max: limits.instances_max,
            refused: None,
        }
    }

    /// What the guest asked for in vain.
    pub(super) fn refused(&self) -> Option<&'static str> {
        self.refused
    }
}

/// Takes the growth from `current` to `desired` out of `left`, or refuses.
fn take(left: &mut usize, current: usize, desired: usize, maximum: Option<usize>) -> bool {
    let grown = desired.saturating_sub(current);
    if grown > *left || maximum.is_some_and(|max| desired > max) {
        return false;
    }
    *left -= grown;
    true
}

impl ResourceLimiter for StoreLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = take(&mut self.memory_left, current, desired, maximum);
        if !granted {
            self.refused = Some("memory");
        }
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = take(&mut self.elements_left, current, desired, maximum);
        if !granted {
            self.refused = Some("table elements");
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        self.instances_max
    }

    fn tables(&self) -> usize {
        self.instances_max
    }

    fn memories(&self) -> usize {
        self.instances_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_share_one_budget() {
        let mut limiter = StoreLimiter::new(&Limits {
            memory_bytes_max: 100,
            ..Limits::default()
        });
        assert!(limiter.memory_growing(0, 60, None).expect("answer"));
        assert!(limiter.memory_growing(0, 40, None).expect("answer"));
        assert_eq!(limiter.refused(), None);
        assert!(!limiter.memory_growing(40, 41, None).expect("answer"));
        assert_eq!(limiter.refused(), Some("memory"));
    }
}

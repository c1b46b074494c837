//! Hookport, an integration gateway: events come in, subscriptions route them, and sandboxed
//! WebAssembly providers carry them out.

pub mod admin;
pub mod api;
pub mod bench;
pub mod child;
pub mod config;
pub mod coord;
pub mod demo;
pub mod dispatch;
pub mod doctor;
pub mod domain;
pub mod egress;
pub mod ingress;
pub mod metrics;
pub mod plugin;
pub mod queue;
pub mod rotate;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod telemetry;
pub mod vault;
pub mod wire;

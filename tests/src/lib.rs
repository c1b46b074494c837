//! What the end-to-end tests share: the gateway as a process, its API, and receivers of every
//! temper.
//!
//! The tests know the gateway only from outside: its binary, its HTTP API, its files. Nothing
//! here links it. A missing binary or component fails a test and says how to build it; nothing
//! is skipped.

pub mod api;
pub mod collector;
mod compiled;
pub mod gateway;
pub mod jira;
pub mod raw_receiver;
pub mod receiver;
pub mod signature;
pub mod slack;
pub mod teams;
pub mod telegram;
pub mod webex;

use std::time::Duration;

/// Longer than anything here takes on a slow machine: a guard against hanging, never a
/// measurement.
pub const PATIENCE: Duration = Duration::from_secs(60);

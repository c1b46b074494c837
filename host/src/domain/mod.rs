//! Pure types and rules: ids, events, subscriptions, the delivery state machine, backoff.
//!
//! Invariant: nothing here does I/O or reads a clock or a random source; time and randomness are
//! parameters. API types, database rows and guest types are separate types, converted at their
//! own boundary.

pub mod audit;
pub mod circuit;
pub mod clock;
pub mod dead_letter;
pub mod delivery;
pub mod event;
pub mod id;
pub mod job;
pub mod key;
pub mod marks;
pub mod paths;
pub mod provider;
pub mod rate;
pub mod replay;
pub mod retry;
pub mod schema;
pub mod source;
pub mod subscription;
pub mod templates;
pub mod trace;

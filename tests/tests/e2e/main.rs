//! End-to-end tests: the real binary, spoken to as its users do.
//!
//! Each test has a gateway of its own. Times are bounds against hanging; where a test says "not
//! before", the lower bound is the promise under test.

mod all_engines;
mod audit;
mod bad_input;
mod broker;
mod catalogue;
mod chaos;
mod chat;
mod command_line;
mod coordination;
mod delivery;
mod deployment;
mod faults;
mod flow;
mod hostile_receivers;
mod idempotency;
mod jira;
mod lifecycle;
mod migration;
mod observability;
mod operational;
mod process;
mod programs;
mod providers;
mod records;
mod replays;
mod retry;
mod routing;
mod script;
mod secrets;
mod shared_store;
mod shutdown;
mod slack;
mod sources;
mod traces;
mod transport;
mod vault;
mod wrecked_sources;

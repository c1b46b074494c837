//! The API and the dispatcher in process: real router, real SQLite store, real queue and worker,
//! a clock moved by hand, and providers that do as a test says. The binary, the sandbox and the
//! network are tested elsewhere.

mod bodies;
mod catalogue;
mod dispatch;
mod events;
mod fairness;
mod flow;
mod harness;
mod ingress;
mod listings;
mod programs;
mod roles;
mod secrets;
mod trials;

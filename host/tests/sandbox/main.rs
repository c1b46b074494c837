//! Hostile guests in the real sandbox: each attack ends as the kind of failure that it is, with a
//! message that says what happened, and leaves the sandbox fit for the next call.

mod burning;
mod flooding;
mod harness;
mod isolation;
mod network;
mod secrets;
mod tokens;

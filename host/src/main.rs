//! The gateway's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(hookport::plugin::compile_child::SUBCOMMAND) => {
            hookport::plugin::compile_child::run_child()
        }
        _ => ExitCode::FAILURE,
    }
}

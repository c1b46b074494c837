//! `cargo xtask …`: builds components, runs the demo and everything that CI runs.
//!
//! It only starts other programs, cargo above all, and holds no logic of the gateway's.

mod checks;
mod components;
mod demo;
mod gateway;
mod process;
mod servers;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::checks::Mode;
use crate::workspace::Workspace;

/// Builds components, runs the demo and everything that CI runs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds every provider into target/components.
    Providers {
        /// Also builds the guests that the tests need, into target/test-components.
        #[arg(long)]
        tests: bool,
    },
    /// Shows one event from its acceptance through a failed attempt to its delivery.
    Demo {
        /// Ends after the delivery: status 0 when it succeeded.
        #[arg(long)]
        once: bool,
    },
    /// Runs everything that CI runs.
    Test,
    /// The same without colours, for logs.
    Ci,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let workspace = Workspace::load()?;
    match arguments.command {
        Command::Providers { tests } => {
            components::build_providers(&workspace)?;
            if tests {
                components::build_test_guests(&workspace)?;
            }
            Ok(())
        }
        Command::Demo { once } => demo::run(&workspace, once),
        Command::Test => checks::run(&workspace, Mode::Local),
        Command::Ci => checks::run(&workspace, Mode::Ci),
    }
}

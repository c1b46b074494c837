//! Everything that CI runs, in order, with a summary.
//!
//! A step that fails ends the run: what comes after builds on it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::workspace::Workspace;
use crate::{components, gateway, process, servers};

/// Who reads the output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A person at a terminal.
    Local,
    /// A log.
    Ci,
}

struct Step {
    name: &'static str,
    action: fn(&Checks) -> anyhow::Result<Outcome>,
}

enum Outcome {
    Passed,
    /// Not run, and why.
    NotRun(&'static str),
}

const STEPS: [Step; 10] = [
    Step {
        name: "servers",
        action: |_| servers::ensure().map(|()| Outcome::Passed),
    },
    Step {
        name: "formatting",
        action: |checks| checks.cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "lints",
        action: |checks| {
            checks.cargo(&[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ])
        },
    },
    Step {
        name: "licences and advisories",
        action: |checks| checks.deny(),
    },
    Step {
        name: "gateway",
        action: |checks| gateway::build(checks.workspace).map(|()| Outcome::Passed),
    },
    Step {
        name: "components",
        action: |checks| {
            components::build_providers(checks.workspace)?;
            components::build_test_guests(checks.workspace)?;
            Ok(Outcome::Passed)
        },
    },
    Step {
        name: "unit, conformance, SDK and provider tests",
        action: |checks| checks.test(&["--lib", "--bins"]),
    },
    Step {
        name: "examples in the documentation",
        action: |checks| checks.test(&["--doc"]),
    },
    Step {
        name: "integration and end-to-end tests",
        action: |checks| checks.test(&["--test", "*"]),
    },
    Step {
        name: "demo",
        action: |checks| checks.demo(),
    },
];

struct Checks<'a> {
    workspace: &'a Workspace,
    mode: Mode,
}

/// Runs every step until one fails.
pub fn run(workspace: &Workspace, mode: Mode) -> anyhow::Result<()> {
    let checks = Checks { workspace, mode };
    let mut lines: Vec<String> = Vec::new();
    let mut failure = None;
    for (index, step) in STEPS.iter().enumerate() {
        println!("\n=== {}/{} {} ===", index + 1, STEPS.len(), step.name);
        let started = Instant::now();
        let result = (step.action)(&checks);
        let took = seconds(started.elapsed());
        match result {
            Ok(Outcome::Passed) => lines.push(format!("passed   {took}  {}", step.name)),
            Ok(Outcome::NotRun(why)) => {
                lines.push(format!("NOT RUN  {took}  {}: {why}", step.name));
            }
            Err(error) => {
                lines.push(format!("FAILED   {took}  {}", step.name));
                failure = Some((index, error));
                break;
            }
        }
    }
    println!("\n=== summary ===");
    for line in &lines {
        println!("{line}");
    }
    let Some((index, error)) = failure else {
        println!("everything passed");
        return Ok(());
    };
    for step in &STEPS[index + 1..] {
        println!("not run           {}", step.name);
    }
    bail!("{}: {error:#}", STEPS[index].name);
}

fn seconds(elapsed: Duration) -> String {
    format!("{:>5} s", elapsed.as_secs())
}

impl Checks<'_> {
    fn cargo(&self, arguments: &[&str]) -> anyhow::Result<Outcome> {
        let mut cargo = process::cargo();
        cargo
            .current_dir(&self.workspace.root)
            .args(arguments)
            .env("HOOKPORT_BIN", self.workspace.target.join("debug/hookport"))
            .env(
                "HOOKPORT_COMPONENTS",
                self.workspace.target.join("components"),
            )
            .env(
                "HOOKPORT_TEST_COMPONENTS",
                self.workspace.target.join("test-components"),
            );
        if self.mode == Mode::Ci {
            cargo.env("CARGO_TERM_COLOR", "never");
        }
        println!("$ {}", process::shown(&cargo));
        process::run(&mut cargo)?;
        Ok(Outcome::Passed)
    }

    /// Always over the whole workspace: another selection of packages selects other features of
    /// their dependencies, and builds these anew.
    fn test(&self, targets: &[&str]) -> anyhow::Result<Outcome> {
        let mut arguments = vec!["test", "--locked", "--workspace"];
        arguments.extend(targets);
        self.cargo(&arguments)
    }

    /// cargo-deny takes minutes to build and reads its advisories from the network, so it is used
    /// where it is installed and its absence is said.
    fn deny(&self) -> anyhow::Result<Outcome> {
        if !process::succeeds(process::cargo().args(["deny", "--version"])) {
            println!(
                "cargo-deny is not installed, so licences and advisories were not checked.\n\
                 Install it with `cargo install --locked cargo-deny`."
            );
            return Ok(Outcome::NotRun("cargo-deny is not installed"));
        }
        self.cargo(&["deny", "--workspace", "check"])
    }

    /// The command that a newcomer types first, without its build.
    fn demo(&self) -> anyhow::Result<Outcome> {
        process::run(
            Command::new(self.workspace.target.join("debug/hookport"))
                .args(["demo", "--once", "--providers"])
                .arg(self.workspace.target.join("components")),
        )?;
        Ok(Outcome::Passed)
    }
}

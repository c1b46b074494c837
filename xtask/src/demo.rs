//! The demo: builds what it needs and hands over to `hookport demo`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::workspace::Workspace;
use crate::{components, gateway, process};

/// Returns only when something failed: the demo takes this process's place, so that Ctrl-C
/// reaches it alone.
pub fn run(workspace: &Workspace, once: bool) -> anyhow::Result<()> {
    println!("Building the providers and the gateway (minutes the first time, seconds after that)");
    components::build_providers(workspace)?;
    gateway::build(workspace)?;
    let mut demo = Command::new(workspace.target.join("debug/hookport"));
    demo.arg("demo")
        .arg("--providers")
        .arg(workspace.target.join("components"));
    if once {
        demo.arg("--once");
    }
    Err(demo.exec()).with_context(|| format!("cannot start `{}`", process::shown(&demo)))
}

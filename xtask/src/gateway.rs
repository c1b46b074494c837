//! Building the gateway.

use crate::process;
use crate::workspace::Workspace;

/// Builds the binary `hookport`, unoptimised, with its dependencies optimised. The whole
/// workspace's binaries, so that the tests find what they need built with the same features.
pub fn build(workspace: &Workspace) -> anyhow::Result<()> {
    process::run(process::cargo().current_dir(&workspace.root).args([
        "build",
        "--locked",
        "--workspace",
        "--bins",
    ]))
}

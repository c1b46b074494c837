//! Where things are, as cargo knows it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

use crate::process;

/// A package that is built as a component.
pub struct ComponentPackage {
    /// The package's name.
    pub package: String,
    /// The name of its folder, which becomes the file's name: `webhook`.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The file that cargo writes for it: `hookport_provider_webhook.wasm`.
    pub artifact: String,
    /// Whether its initialisation is run when it is built, as its manifest's
    /// `package.metadata.hookport.preinitialize` says.
    pub preinitialize: bool,
}

/// The workspace that this program belongs to.
pub struct Workspace {
    /// Its root folder.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    packages: Vec<ComponentPackage>,
}

impl Workspace {
    /// Asks cargo.
    pub fn load() -> anyhow::Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let text = process::output(
            process::cargo()
                .args(["metadata", "--no-deps", "--format-version", "1"])
                .arg("--manifest-path")
                .arg(manifest),
        )?;
        Self::read(&text).context("cargo metadata answered in an unknown form")
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let metadata: Value = serde_json::from_str(text)?;
        let path = |field: &str| {
            metadata[field]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("no {field}"))
        };
        let mut packages: Vec<_> = metadata["packages"]
            .as_array()
            .context("no packages")?
            .iter()
            .filter_map(component_package)
            .collect();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            packages,
        })
    }

    /// The component packages below `folder`, by name.
    pub fn components_in(&self, folder: &str) -> Vec<&ComponentPackage> {
        let folder = self.root.join(folder);
        self.packages
            .iter()
            .filter(|package| package.folder.parent() == Some(&folder))
            .collect()
    }
}

/// A package with a `cdylib` target is meant to be a component.
fn component_package(package: &Value) -> Option<ComponentPackage> {
    let target = package["targets"].as_array()?.iter().find(|target| {
        target["crate_types"]
            .as_array()
            .is_some_and(|types| types.iter().any(|kind| kind == "cdylib"))
    })?;
    let folder = Path::new(package["manifest_path"].as_str()?).parent()?;
    Some(ComponentPackage {
        package: package["name"].as_str()?.to_owned(),
        name: folder.file_name()?.to_str()?.to_owned(),
        folder: folder.to_owned(),
        artifact: format!("{}.wasm", target["name"].as_str()?.replace('-', "_")),
        preinitialize: package["metadata"]["hookport"]["preinitialize"] == true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_components_by_their_crate_type_and_folder() {
        let text = r#"{
            "workspace_root": "/p", "target_directory": "/p/target",
            "packages": [
                {"name": "hookport-provider-webhook", "manifest_path": "/p/providers/webhook/Cargo.toml",
                 "targets": [{"name": "hookport_provider_webhook", "crate_types": ["cdylib", "rlib"]}]},
                {"name": "hookport-guest-spin", "manifest_path": "/p/tests/guests/spin/Cargo.toml",
                 "targets": [{"name": "hookport-guest-spin", "crate_types": ["cdylib"]}]},
                {"name": "hookport", "manifest_path": "/p/host/Cargo.toml",
                 "targets": [{"name": "hookport", "crate_types": ["lib"]}]}
            ]}"#;
        let workspace = Workspace::read(text).expect("readable");
        let names = |folder| {
            workspace
                .components_in(folder)
                .iter()
                .map(|package| (package.name.as_str(), package.artifact.as_str()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("providers"),
            [("webhook", "hookport_provider_webhook.wasm")]
        );
        assert_eq!(
            names("tests/guests"),
            [("spin", "hookport_guest_spin.wasm")]
        );
        assert!(names("host").is_empty());
    }
}

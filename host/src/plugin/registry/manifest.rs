//! The section `hookport-manifest`: who a component is and which contract it was built for, read
//! without compiling or running it.
//!
//! The SDK embeds it; a component built otherwise may lack it. It gives an exact reason for a
//! contract that is not served before anything is spent on the component, and what it says is
//! checked against what the component says of itself.

use serde::Deserialize;
use wasmparser::{Parser, Payload};

use crate::domain::provider::{ComponentKind, Descriptor};
use crate::plugin::engine::WIT_SERVED;

const SECTION: &str = "hookport-manifest";
const MANIFEST_BYTES_MAX: usize = 4 << 10;
const PACKAGE: &str = "hookport:provider@";
/// Contracts served; each has its linker entries in the engine.
const CONTRACTS_SERVED: [&str; 1] = ["hookport:provider@0.1.0"];

/// What a component says of itself without being run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// The provider's identifier.
    pub id: String,
    /// The provider's version.
    pub version: String,
    /// The contract it was built for: `hookport:provider@0.1.0`.
    pub contract: String,
    /// The world of the contract.
    #[serde(default = "provider_world")]
    pub world: String,
}

fn provider_world() -> String {
    ComponentKind::Provider.as_str().to_owned()
}

/// Reads the manifest of a component, if it has one.
///
/// # Errors
/// When the binary is damaged, or the section is not as it must be or there twice.
pub fn read(wasm: &[u8]) -> Result<Option<Manifest>, String> {
    let mut found = None;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload
            .map_err(|error| format!("the file is truncated or damaged: {}", error.message()))?;
        let Payload::CustomSection(section) = payload else {
            continue;
        };
        if section.name() != SECTION {
            continue;
        }
        if section.data().len() > MANIFEST_BYTES_MAX {
            return Err(format!("{SECTION}: larger than {MANIFEST_BYTES_MAX} bytes"));
        }
        let manifest: Manifest = serde_json::from_slice(section.data())
            .map_err(|error| format!("{SECTION}: {error}"))?;
        if found.replace(manifest).is_some() {
            return Err(format!("{SECTION}: there are two"));
        }
    }
    Ok(found)
}

impl Manifest {
    /// Checks that the contract is served.
    ///
    /// # Errors
    /// With both versions.
    pub fn check_contract(&self) -> Result<(), String> {
        if CONTRACTS_SERVED.contains(&self.contract.as_str()) {
            return Ok(());
        }
        let remedy = if self.contract.starts_with(PACKAGE) {
            "build it with the matching SDK, or take another version of the gateway"
        } else {
            "that is not a provider's contract"
        };
        Err(format!(
            "built for {}, which is not served: this gateway has {WIT_SERVED}; {remedy}",
            self.contract.chars().take(128).collect::<String>()
        ))
    }

    /// Checks that the component describes itself as its manifest does.
    ///
    /// # Errors
    /// With the field and both values.
    pub fn check_descriptor(&self, descriptor: &Descriptor) -> Result<(), String> {
        let differ = |field: &str, manifest: &str, described: &str| {
            Err(format!(
                "{SECTION} says {field} {:?}, but the component describes itself as {described:?}",
                manifest.chars().take(128).collect::<String>()
            ))
        };
        if self.id != descriptor.id.as_str() {
            return differ("id", &self.id, descriptor.id.as_str());
        }
        if self.world != descriptor.kind.as_str() {
            return differ("world", &self.world, descriptor.kind.as_str());
        }
        if self.version != descriptor.version {
            return differ("version", &self.version, &descriptor.version);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(inside: &str) -> Vec<u8> {
        wat::parse_str(format!("(component {inside})")).expect("a component")
    }

    const SOUND: &str = r#"(@custom "hookport-manifest" "{\"id\":\"a\",\"version\":\"1.0.0\",\"contract\":\"hookport:provider@0.1.0\"}")"#;

    #[test]
    fn a_manifest_is_found_at_any_depth() {
        let nested = format!("(core module {SOUND})");
        for inside in [SOUND, &nested] {
            let manifest = read(&component(inside)).expect("reads").expect("is there");
            assert_eq!(manifest.id, "a");
            assert_eq!(manifest.check_contract(), Ok(()));
        }
        assert_eq!(read(&component("")), Ok(None));
    }

    #[test]
    fn a_wrong_manifest_says_what_is_wrong() {
        let twice = format!("{SOUND} {SOUND}");
        for (inside, words) in [
            (twice.as_str(), "two"),
            (r#"(@custom "hookport-manifest" "{")"#, "EOF"),
            (
                r#"(@custom "hookport-manifest" "{\"id\":\"a\"}")"#,
                "version",
            ),
        ] {
            let error = read(&component(inside)).expect_err(inside);
            assert!(error.contains(words), "{error}");
        }
        let mut cut = component(SOUND);
        cut.truncate(cut.len() - 3);
        assert!(read(&cut).expect_err("truncated").contains("truncated"));
    }

    #[test]
    fn another_contract_is_named_with_the_one_served() {
        let manifest = Manifest {
            id: "a".to_owned(),
            version: "1.0.0".to_owned(),
            contract: "hookport:provider@0.9.0".to_owned(),
            world: "provider".to_owned(),
        };
        let error = manifest.check_contract().expect_err("not served");
        assert!(
            error.contains("@0.9.0") && error.contains("@0.1.0"),
            "{error}"
        );
    }
}

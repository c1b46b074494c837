//! Subcommands that work on a gateway's files while it is not running.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde_json::json;

use crate::api::{KeyView, new_key};
use crate::config::Config;
use crate::domain::audit::{Actor, NewEntry};
use crate::domain::clock::{Clock as _, rfc3339};
use crate::domain::id::KeyId;
use crate::domain::key::{ApiKey, Role};
use crate::domain::provider::Descriptor;
use crate::plugin::compile_child::{CompileLimits, Compiler};
use crate::plugin::registry;
use crate::wire::{self, SystemClock};

/// Whoever is at the command line.
fn actor(command: &str) -> Actor {
    Actor::command(rustix::process::getuid().as_raw(), command)
}

/// Makes a key and prints its text, once.
///
/// # Errors
/// When the store cannot be opened.
pub async fn create_key(config: &Config, name: String, role: Role) -> anyhow::Result<()> {
    let store = wire::open_store(config).await?;
    let now = SystemClock.now();
    let new = new_key();
    let id: KeyId = wire::ids().next(now);
    let key = ApiKey {
        id,
        name,
        role,
        hash: new.hash,
        created_at: now,
        revoked_at: None,
    };
    let entry = NewEntry::new(now, actor("key create"), "key.created", "key", id)
        .after(&KeyView::from(&key));
    store.audited(entry).put_key(key).await?;
    eprintln!("{id}: this is the only time the key is shown");
    println!("{}", *new.text);
    Ok(())
}

/// Prints every key but its text.
///
/// # Errors
/// When the store cannot be opened.
pub async fn list_keys(config: &Config) -> anyhow::Result<()> {
    for key in wire::open_store(config).await?.keys().await? {
        let revoked = key
            .revoked_at
            .map_or(String::new(), |at| format!("  revoked {}", rfc3339(at)));
        println!(
            "{}  {:8}  {}  {}{revoked}",
            key.id,
            key.role.as_str(),
            rfc3339(key.created_at),
            key.name
        );
    }
    Ok(())
}

/// Revokes a key.
///
/// # Errors
/// When there is no such key, or the store cannot be opened.
pub async fn revoke_key(config: &Config, id: &str) -> anyhow::Result<()> {
    let id: KeyId = id.parse()?;
    let store = wire::open_store(config).await?;
    let now = SystemClock.now();
    let mut entry = NewEntry::new(now, actor("key revoke"), "key.revoked", "key", id);
    let keys = store.keys().await?;
    if let Some(key) = keys.iter().find(|key| key.id == id) {
        entry = entry.before(&KeyView::from(key));
    }
    if store.audited(entry).revoke_key(id, now).await? {
        println!("{id} is revoked");
        Ok(())
    } else {
        Err(anyhow!("there is no key {id} that is not revoked"))
    }
}

async fn describe(file: &Path) -> anyhow::Result<Descriptor> {
    let config = Config {
        concurrency: 1,
        ..Config::default()
    };
    let sandbox = wire::sandbox(&config)?;
    let compiler = Compiler::new(CompileLimits::default())?;
    let (_, descriptor) = registry::inspect(file, &compiler, &sandbox)
        .await
        .map_err(|reason| anyhow!(reason))?;
    Ok(descriptor)
}

/// Prints a line a component.
///
/// # Errors
/// When the directory cannot be read.
pub async fn list_providers(directory: &Path) -> anyhow::Result<()> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
        .collect();
    files.sort();
    for file in files {
        match describe(&file).await {
            Ok(descriptor) => {
                let hosts: Vec<&str> = descriptor
                    .permissions
                    .hosts
                    .iter()
                    .map(String::as_str)
                    .collect();
                println!(
                    "{}  {} {}  asks for {}",
                    file.display(),
                    descriptor.id,
                    descriptor.version,
                    if hosts.is_empty() {
                        "nothing".to_owned()
                    } else {
                        hosts.join(", ")
                    }
                );
            }
            Err(error) => println!("{}  cannot be used: {error:#}", file.display()),
        }
    }
    Ok(())
}

/// Prints what a component says of itself.
///
/// # Errors
/// When it cannot be used, and why.
pub async fn inspect_provider(file: &Path) -> anyhow::Result<()> {
    let descriptor = describe(file).await?;
    let schema = |schema: &crate::domain::provider::VersionedSchema| json!({"version": schema.version, "schema": schema.schema});
    let shown = json!({
        "id": descriptor.id.as_str(),
        "name": descriptor.name,
        "description": descriptor.description,
        "icon": descriptor.icon,
        "version": descriptor.version,
        "events": descriptor.events,
        "permissions": {
            "hosts": descriptor.permissions.hosts,
            "exposeSecrets": descriptor.permissions.expose_secrets,
        },
        "config": schema(&descriptor.config),
        "connection": descriptor.connection.as_ref().map(schema),
    });
    say(&serde_json::to_string_pretty(&shown)?)
}

/// Pre-initialises a component of one's own.
///
/// # Errors
/// With what to mend.
pub async fn preinitialize_provider(file: &Path, output: &Path) -> anyhow::Result<()> {
    let wasm = std::fs::read(file).with_context(|| file.display().to_string())?;
    let ready = crate::plugin::preinitialize::preinitialize(&wasm)
        .await
        .with_context(|| file.display().to_string())?;
    std::fs::write(output, &ready).with_context(|| output.display().to_string())?;
    println!("{} ({} KiB)", output.display(), ready.len().div_ceil(1024));
    Ok(())
}

/// Prints; whoever reads may stop reading (`| head`).
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

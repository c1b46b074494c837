//! `hookport vault rotate`: from one master key to the next, while the gateway works.
//!
//! Invariant: a key is given up only when nothing on record is under it and no running process seals
//! with it. Interrupted at any point, the same command goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::config::Config;
use crate::dispatch::rotation::{Rotation, count};
use crate::dispatch::{Snapshots, key_keeping};
use crate::domain::audit::Actor;
use crate::store::Store;
use crate::vault::key::{OTHERS_VARIABLE, VARIABLE, Variables, WhenMissing};
use crate::vault::{KeyRing, MasterKey, Vault};
use crate::wire::{self, SystemClock};

/// Between two looks at what a running gateway has done.
const LOOK: Duration = Duration::from_millis(300);

/// Rotates the master key.
///
/// # Errors
/// With what to mend; nothing is lost, and what was done stays done.
pub async fn rotate(config: &Config) -> anyhow::Result<()> {
    let variables = wire::key_variables();
    if config.store.url.is_none() && variables.key.is_none() {
        with_the_file(config, &wire::key_file(config)).await
    } else {
        with_given_keys(config, &variables).await
    }
}

/// The keys are in the environment, or many processes have the store: the operator gives them the
/// new key, and this seals anew.
async fn with_given_keys(config: &Config, variables: &Variables) -> anyhow::Result<()> {
    let ring = KeyRing::load(variables, &wire::key_file(config), WhenMissing::Refuse)?;
    let store = wire::open_store(config).await.context(
        "a gateway on an embedded database seals anew by itself when it starts with the new key and the one before; `hookport doctor` shows how far it is",
    )?;
    let seals = ring.sealing.id();
    let counts = count(&store.catalog().await?);
    refuse_unknown(&counts, &ring)?;
    for process in store.keys_in_use(key_keeping::PATIENCE).await? {
        let id = process.process;
        if !process.opens.contains(&seals) {
            bail!(
                "the process {id} does not know the key {seals}; nothing was changed. Give it to every process in {OTHERS_VARIABLE} first, then make it {VARIABLE} everywhere, with the one before in {OTHERS_VARIABLE}"
            );
        }
        if process.seals != seals {
            bail!(
                "the process {id} still seals with {}; nothing was changed. Restart it with the new key in {VARIABLE} and the one before in {OTHERS_VARIABLE}",
                process.seals
            );
        }
    }
    let others = counts.keys().any(|key| *key != seals);
    if !others {
        println!("everything is under the key {seals}");
        if ring.others.is_empty() {
            println!(
                "to begin a rotation: make a key (openssl rand -base64 32), give it to every process in {OTHERS_VARIABLE}, then make it {VARIABLE} everywhere with the one before in {OTHERS_VARIABLE}, then run this again"
            );
        } else {
            println!("{OTHERS_VARIABLE} is not needed any more");
        }
        return Ok(());
    }
    let documents = reseal(store, &ring).await?;
    println!(
        "{documents} documents were sealed anew; everything is under the key {seals}. Take the others out of {OTHERS_VARIABLE} everywhere, and destroy them with the backups that need them"
    );
    Ok(())
}

/// One process, one file: this makes the new key, waits for the gateway (or does its work while it
/// is stopped), and gives the old one up.
async fn with_the_file(config: &Config, file: &Path) -> anyhow::Result<()> {
    let mut ring = KeyRing::load(&Variables::default(), file, WhenMissing::Refuse)?;
    let on_record = wire::open_reader(config).await?.read_catalog().await?;
    refuse_unknown(&count(&on_record), &ring)?;
    if ring.others.is_empty() {
        let before = std::mem::replace(&mut ring.sealing, MasterKey::random());
        ring.others.push(before);
        ring.save(file)?;
        println!(
            "{} holds a new key, {}, and the one before until nothing is under it. Back the file up now",
            file.display(),
            ring.sealing.id()
        );
    } else {
        println!("going on with the rotation to {}", ring.sealing.id());
    }
    loop {
        match wire::open_store(config).await {
            Ok(store) => {
                reseal(store, &ring).await?;
                break;
            }
            Err(error) if !wire::is_in_use(&error) => return Err(error),
            Err(_) => {
                if is_done_by_the_gateway(config, &ring).await? {
                    break;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    ring.others.clear();
    ring.save(file)?;
    println!(
        "everything is under the key {}; the one before is gone from {}. Destroy its copies with the backups that need them",
        ring.sealing.id(),
        file.display()
    );
    Ok(())
}

/// Whether the process that has the database has taken the new key up and sealed everything anew.
async fn is_done_by_the_gateway(config: &Config, ring: &KeyRing) -> anyhow::Result<bool> {
    let reader = wire::open_reader(config).await?;
    let seals = ring.sealing.id();
    let processes = reader.read_keys_in_use(Duration::MAX).await?;
    // Read after what it says: from then on it seals with nothing else.
    let is_taken_up = !processes.is_empty() && processes.iter().all(|found| found.seals == seals);
    let counts = count(&reader.read_catalog().await?);
    refuse_unknown(&counts, ring)?;
    Ok(is_taken_up && counts.keys().all(|key| *key == seals))
}

async fn reseal(store: Arc<dyn Store>, ring: &KeyRing) -> anyhow::Result<usize> {
    let rotation = Rotation {
        snapshots: Arc::new(Snapshots::load(store.clone()).await?),
        store,
        vault: Arc::new(Vault::new(&ring.sealing, &ring.others)),
        clock: Arc::new(SystemClock),
        actor: Actor::command(rustix::process::getuid().as_raw(), "vault rotate"),
    };
    let done = rotation.run().await?;
    if !done.unreadable.is_empty() {
        bail!(
            "{} documents were sealed anew; these cannot be, and keep the old key: {}",
            done.documents,
            done.unreadable.join("; ")
        );
    }
    Ok(done.documents)
}

/// Refuses to begin where something is under a key that is not at hand.
fn refuse_unknown(counts: &BTreeMap<String, usize>, ring: &KeyRing) -> anyhow::Result<()> {
    let known = ring.names().opens;
    let unknown: Vec<String> = counts
        .iter()
        .filter(|(key, _)| !known.contains(*key))
        .map(|(key, documents)| format!("{documents} under {key}"))
        .collect();
    if !unknown.is_empty() {
        bail!(
            "documents are sealed with keys that are not at hand: {}; nothing was changed. Put those keys back (a second line of vault.key, or {OTHERS_VARIABLE}), or enter the secrets again",
            unknown.join(", ")
        );
    }
    Ok(())
}

//! Which master keys the secrets on record are under.

use crate::config::Config;
use crate::dispatch::rotation::count;
use crate::vault::KeyRing;
use crate::vault::key::WhenMissing;
use crate::wire;

/// Says what a rotation has left to do, also beside a running gateway.
pub(super) async fn under_which_key(config: &Config) -> Result<String, String> {
    let (variables, file) = (wire::key_variables(), wire::key_file(config));
    let ring = KeyRing::load(&variables, &file, WhenMissing::Refuse);
    let keys = ring.map_err(|error| error.to_string())?.names();
    let reader = wire::open_reader(config).await;
    let reader = reader.map_err(|error| format!("{error:#}"))?;
    let catalog = reader.read_catalog().await;
    let counts = count(&catalog.map_err(|error| error.to_string())?);
    let under = |wanted: &dyn Fn(&String) -> bool| -> usize {
        let found = counts.iter().filter(|(key, _)| wanted(key));
        found.map(|(_, documents)| documents).sum()
    };
    let unknown = under(&|key| !keys.opens.contains(key));
    if unknown > 0 {
        return Err(format!(
            "{unknown} documents are under keys that are not at hand: put those back beside {}, or enter the secrets again",
            keys.seals
        ));
    }
    let (current, others) = (
        under(&|key| *key == keys.seals),
        under(&|key| *key != keys.seals),
    );
    let left = match (others, keys.opens.len()) {
        (0, 1) => String::new(),
        (0, _) => "; no other key is needed any more".to_owned(),
        (others, _) => format!(", {others} under one before it: run hookport vault rotate"),
    };
    Ok(format!(
        "{current} documents under the key {}{left}",
        keys.seals
    ))
}

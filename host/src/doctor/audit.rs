//! Whether the audit trail is what was written.

use crate::config::Config;
use crate::domain::audit::Anchor;
use crate::store::audit::check;
use crate::wire;

/// Follows the whole trail, beside a running gateway too.
pub(super) async fn trail(config: &Config, expected: Option<Anchor>) -> Result<String, String> {
    let log = wire::open_reader(config)
        .await
        .map_err(|error| format!("{error:#}"))?;
    let end = check(&*log, expected)
        .await
        .map_err(|error| error.to_string())?;
    let compared = if expected.is_some() {
        ", and holds what was expected"
    } else {
        ""
    };
    Ok(format!(
        "{} entries, the chain is whole{compared}; keep its end elsewhere, for --expect: {end}",
        end.seq
    ))
}

//! What providers are granted: the file `grants.toml` beside the components, and the grants that
//! came through the API.
//!
//! A provider's effective permissions are what it asks for, narrowed to what is granted. Rules:
//! - A grant through the API is pinned to the component it was given to. It carries over to
//!   another component of that provider only when that one asks for nothing that the first did
//!   not ask for or the grant does not name.
//! - A table in the file serves any component that asks for no more than it names; with `digest`
//!   also that one component, whatever it asks for.
//! - Where both are there, the grant through the API counts: it is the more specific decision,
//!   and the file's table stays as it was before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;

use super::directory;
use crate::domain::provider::{Grant, Permissions, ProviderId};
use crate::plugin::{EffectivePermissions, HostRule};
use crate::store::GrantRecord;

/// Name of the grants file in the providers directory.
pub const GRANTS_FILE: &str = "grants.toml";
/// Largest grants file read.
pub const GRANTS_BYTES_MAX: u64 = 1 << 20;

const HOSTS_MAX: usize = 200;

/// A grant, or the file, is not as it must be: field and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidGrant(String);

/// One table of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileGrant {
    /// What it grants.
    pub grant: Grant,
    /// The one component that may ask for more than it gets, SHA-256 in hexadecimal.
    pub digest: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    expose_secrets: bool,
    #[serde(default)]
    allow_addresses: Vec<String>,
    digest: Option<String>,
}

/// Reads the text of `grants.toml`.
///
/// # Errors
/// With the table, the field and the remedy.
pub fn parse_file(text: &str) -> Result<BTreeMap<ProviderId, FileGrant>, InvalidGrant> {
    let tables: BTreeMap<String, Table> = toml::from_str(text).map_err(|error| {
        InvalidGrant(format!("not as it must be: {}", error.to_string().trim()))
    })?;
    tables
        .into_iter()
        .map(|(name, table)| {
            let at = |problem: String| InvalidGrant(format!("[{name}] {problem}"));
            let id = ProviderId::parse(&name).map_err(|error| at(error.to_string()))?;
            let digest = table.digest.map(|text| digest_of(&text)).transpose();
            let grant = Grant {
                permissions: Permissions {
                    hosts: table.hosts.into_iter().collect(),
                    expose_secrets: table.expose_secrets,
                },
                allow_addresses: networks(&table.allow_addresses).map_err(|error| at(error.0))?,
            };
            check(&grant).map_err(|error| at(error.0))?;
            let digest = digest.map_err(|error| at(error.0))?;
            Ok((id, FileGrant { grant, digest }))
        })
        .collect()
}

fn digest_of(text: &str) -> Result<String, InvalidGrant> {
    let digest = text.strip_prefix("sha256:").unwrap_or(text);
    let sound = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    if sound {
        Ok(digest.to_ascii_lowercase())
    } else {
        Err(InvalidGrant(
            "digest: give the component's SHA-256 as 64 hexadecimal digits".to_owned(),
        ))
    }
}

fn networks(texts: &[String]) -> Result<Vec<IpNet>, InvalidGrant> {
    let parse = |text: &String| {
        text.parse()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
            .map_err(|_| {
                InvalidGrant(format!(
                    "allow_addresses: {text:?} is no network; write it as 10.0.0.0/8 or fd00::/8"
                ))
            })
    };
    texts.iter().map(parse).collect()
}

/// Checks a grant, whichever way it came.
///
/// # Errors
/// With the field and the remedy.
pub fn check(grant: &Grant) -> Result<(), InvalidGrant> {
    if grant.permissions.hosts.len() > HOSTS_MAX || grant.allow_addresses.len() > HOSTS_MAX {
        return Err(InvalidGrant(format!(
            "hosts, allow_addresses: give at most {HOSTS_MAX} each"
        )));
    }
    for host in &grant.permissions.hosts {
        HostRule::parse(host).map_err(|error| InvalidGrant(format!("hosts: {error}")))?;
    }
    Ok(())
}

/// Whether a component may be loaded, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// With these permissions.
    Serve {
        /// Asked ∩ granted.
        effective: EffectivePermissions,
        /// Whether it was given to another component, and the grant's record is to be pinned anew.
        carried_over: bool,
    },
    /// Asks for what nobody granted: these hosts, and maybe `exposeSecrets`.
    Await(Vec<String>),
}

/// All grants, from both places.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Of the file as last read well.
    pub file: BTreeMap<ProviderId, FileGrant>,
    /// Of the store.
    pub stored: HashMap<ProviderId, GrantRecord>,
}

impl Grants {
    /// What is granted to a provider now.
    #[must_use]
    pub fn of(&self, id: &ProviderId) -> Option<&Grant> {
        match self.stored.get(id) {
            Some(record) => Some(&record.grant),
            None => self.file.get(id).map(|file| &file.grant),
        }
    }

    /// Whether the store's grant was given to this very component.
    #[must_use]
    pub fn pinned(&self, id: &ProviderId, digest: &str) -> bool {
        self.stored
            .get(id)
            .is_some_and(|record| record.digest == digest)
    }

    /// Decides on the component `digest` of provider `id`, which asks for `asked`.
    #[must_use]
    pub fn decide(&self, id: &ProviderId, digest: &str, asked: &Permissions) -> Decision {
        let nothing = Permissions::default();
        let (grant, accepted, carried_over) = match (self.stored.get(id), self.file.get(id)) {
            (Some(record), _) => {
                let same = record.digest == digest;
                let accepted = same
                    || missing(asked, &record.asked).is_empty()
                    || missing(asked, &record.grant.permissions).is_empty();
                (Some(&record.grant), accepted, accepted && !same)
            }
            (None, Some(file)) => {
                let accepted = file.digest.as_deref() == Some(digest)
                    || missing(asked, &file.grant.permissions).is_empty();
                (Some(&file.grant), accepted, false)
            }
            (None, None) => (None, *asked == nothing, false),
        };
        if !accepted && *asked != nothing {
            let granted = grant.map_or(&nothing, |grant| &grant.permissions);
            return Decision::Await(missing(asked, granted));
        }
        Decision::Serve {
            effective: effective(asked, grant),
            carried_over,
        }
    }
}

fn rules(permissions: &Permissions) -> Vec<HostRule> {
    // Both sides were checked when they came in; what does not parse grants nothing.
    let parse = |text: &String| HostRule::parse(text).ok();
    permissions.hosts.iter().filter_map(parse).collect()
}

/// Whether `wide` names everything that `narrow` does.
fn covers(wide: &HostRule, narrow: &HostRule) -> bool {
    match (wide, narrow) {
        (HostRule::Fixed(wide), HostRule::Fixed(narrow)) => wide.covers(narrow),
        (HostRule::Fixed(wide), _) => wide.is_any(),
        (wide, narrow) => wide == narrow,
    }
}

/// What is asked for and not granted, in words of the API.
fn missing(asked: &Permissions, granted: &Permissions) -> Vec<String> {
    let granted_rules = rules(granted);
    let open = |text: &&String| match HostRule::parse(text) {
        Ok(rule) => !granted_rules.iter().any(|wide| covers(wide, &rule)),
        Err(_) => true,
    };
    let mut missing: Vec<String> = asked.hosts.iter().filter(open).cloned().collect();
    if asked.expose_secrets && !granted.expose_secrets {
        missing.push("exposeSecrets".to_owned());
    }
    missing
}

/// Asked ∩ granted. Patterns are nested or disjoint, so the narrower of each overlapping pair is
/// the intersection.
fn effective(asked: &Permissions, grant: Option<&Grant>) -> EffectivePermissions {
    let Some(grant) = grant else {
        return EffectivePermissions::none();
    };
    let (asked_rules, granted_rules) = (rules(asked), rules(&grant.permissions));
    let mut hosts: Vec<HostRule> = Vec::new();
    let narrower = asked_rules
        .iter()
        .filter(|rule| granted_rules.iter().any(|wide| covers(wide, rule)))
        .chain(
            granted_rules
                .iter()
                .filter(|rule| asked_rules.iter().any(|wide| covers(wide, rule))),
        );
    for rule in narrower {
        if !hosts.contains(rule) {
            hosts.push(rule.clone());
        }
    }
    EffectivePermissions {
        hosts,
        expose_secrets: asked.expose_secrets && grant.permissions.expose_secrets,
        allow_addresses: Arc::from(grant.allow_addresses.as_slice()),
    }
}

type GrantsText = Result<String, String>;

/// The grants file, when it is another than `seen`: with its text, or why that cannot be read.
/// No file reads as an empty one.
pub(super) fn look(
    folder: &std::path::Path,
    seen: Option<directory::Signature>,
) -> Option<(Option<directory::Signature>, GrantsText)> {
    let path = folder.join(GRANTS_FILE);
    let signature = directory::signature(&path);
    if signature == seen {
        return None;
    }
    let Some(found) = signature else {
        return Some((None, Ok(String::new())));
    };
    let text = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > GRANTS_BYTES_MAX => {
            Err(format!("larger than {} bytes", GRANTS_BYTES_MAX))
        }
        Ok(_) => std::fs::read_to_string(&path).map_err(|error| format!("cannot be read: {error}")),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    Some((Some(found), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Timestamp;

    fn id() -> ProviderId {
        ProviderId::parse("p").expect("id")
    }

    fn permissions(hosts: &[&str], expose_secrets: bool) -> Permissions {
        Permissions {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            expose_secrets,
        }
    }

    fn grant(hosts: &[&str]) -> Grant {
        Grant {
            permissions: permissions(hosts, false),
            allow_addresses: Vec::new(),
        }
    }

    fn hosts(decision: &Decision) -> Vec<String> {
        let Decision::Serve { effective, .. } = decision else {
            panic!("not served: {decision:?}");
        };
        let mut texts: Vec<String> = effective
            .hosts
            .iter()
            .map(|rule| match rule {
                HostRule::Fixed(pattern) => pattern.to_string(),
                HostRule::ConfigField(field) => format!("{{config.{field}}}"),
                HostRule::ConnectionField(field) => format!("{{connection.{field}}}"),
            })
            .collect();
        texts.sort();
        texts
    }

    fn stored(asked: &[&str], granted: &[&str]) -> Grants {
        let record = GrantRecord {
            provider: id(),
            grant: grant(granted),
            asked: permissions(asked, false),
            digest: "d1".to_owned(),
            granted_at: Timestamp(0),
        };
        Grants {
            stored: HashMap::from([(id(), record)]),
            ..Grants::default()
        }
    }

    #[test]
    fn effective_is_the_intersection() {
        let check = |asked: &[&str], granted: &[&str], expected: &[&str]| {
            let decision = stored(asked, granted).decide(&id(), "d1", &permissions(asked, true));
            assert_eq!(hosts(&decision), expected, "{asked:?} ∩ {granted:?}");
            let Decision::Serve { effective, .. } = decision else {
                unreachable!("checked above");
            };
            assert!(!effective.expose_secrets, "asked, but not granted");
        };
        check(&["a.test"], &["https://a.test"], &["https://a.test"]);
        check(&["*"], &["a.test"], &["https://a.test"]);
        check(&["a.test"], &["*"], &["https://a.test"]);
        check(
            &["*.a.test"],
            &["x.a.test", "b.test"],
            &["https://x.a.test"],
        );
        check(&["a.test"], &["b.test"], &[]);
        check(&["{config.url}"], &["{config.url}"], &["{config.url}"]);
        check(&["{config.url}"], &["*"], &["{config.url}"]);
        check(&["*"], &["{config.url}"], &["{config.url}"]);
        check(&["{config.url}"], &["{connection.url}", "a.test"], &[]);
    }

    #[test]
    fn a_grant_carries_over_only_when_nothing_is_widened() {
        let check = |asked: &[&str], expose: bool, carried: Option<bool>| {
            let grants = stored(&["a.test", "b.test"], &["a.test", "c.test"]);
            let decision = grants.decide(&id(), "d2", &permissions(asked, expose));
            let found = match decision {
                Decision::Serve { carried_over, .. } => Some(carried_over),
                Decision::Await(_) => None,
            };
            assert_eq!(found, carried, "{asked:?} {expose}");
        };
        check(&["a.test"], false, Some(true));
        check(&["a.test", "b.test"], false, Some(true));
        check(&["c.test"], false, Some(true));
        check(&[], false, Some(true));
        check(&["d.test"], false, None);
        check(&["a.test"], true, None);
        check(&["*"], false, None);
    }

    #[test]
    fn a_first_component_waits_unless_it_asks_for_nothing() {
        let none = Grants::default();
        assert!(hosts(&none.decide(&id(), "d", &Permissions::default())).is_empty());
        assert_eq!(
            none.decide(&id(), "d", &permissions(&["a.test"], true)),
            Decision::Await(vec!["a.test".to_owned(), "exposeSecrets".to_owned()])
        );
    }

    #[test]
    fn a_table_serves_what_it_names_and_a_pinned_digest() {
        let text = format!(
            "[p]\nhosts = [\"a.test\"]\nallow_addresses = [\"127.0.0.0/8\", \"::1\"]\ndigest = \"sha256:{}\"\n",
            "AB".repeat(32)
        );
        let grants = Grants {
            file: parse_file(&text).expect("sound"),
            ..Grants::default()
        };
        let narrow = permissions(&["a.test"], false);
        let wide = permissions(&["*"], true);
        let decision = grants.decide(&id(), "d", &narrow);
        assert_eq!(hosts(&decision), ["https://a.test"]);
        let Decision::Serve { effective, .. } = decision else {
            unreachable!("checked above");
        };
        assert_eq!(effective.allow_addresses.len(), 2);
        assert!(matches!(
            grants.decide(&id(), "d", &wide),
            Decision::Await(_)
        ));
        let pinned = grants.decide(&id(), &"ab".repeat(32), &wide);
        assert_eq!(hosts(&pinned), ["https://a.test"]);
    }

    #[test]
    fn the_stores_grant_counts_before_the_files() {
        let mut grants = stored(&["a.test"], &["a.test"]);
        grants.file = parse_file("[p]\nhosts = [\"*\"]").expect("sound");
        let decision = grants.decide(&id(), "d1", &permissions(&["a.test"], false));
        assert_eq!(hosts(&decision), ["https://a.test"]);
        assert!(matches!(
            grants.decide(&id(), "d2", &permissions(&["z.test"], false)),
            Decision::Await(_)
        ));
    }

    #[test]
    fn a_wrong_file_names_table_and_field() {
        for (text, words) in [
            ("[Bad]", "[Bad]"),
            ("[p]\nhosts = [\"ftp://a\"]", "[p] hosts"),
            ("[p]\nallow_addresses = [\"10\"]", "[p] allow_addresses"),
            ("[p]\nhost = []", "host"),
            ("[p]\nhosts = 1", "hosts"),
            ("[p", "not as it must be"),
            ("[p]\ndigest = \"12\"", "[p] digest"),
        ] {
            let error = parse_file(text).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}

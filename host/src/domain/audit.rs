//! The audit trail: who did what, when, to what, in a chain of hashes.
//!
//! Invariant: the hash of an entry covers the whole entry and the hash of the one before it, so
//! that the hash of the newest stands for all. What can be written holds no secret: `before` and
//! `after` are what the API shows of a resource.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::clock::Timestamp;
use super::id::{KeyId, WorkerId};

/// Begins what is hashed for each entry, so that no other use of SHA-256 gives the same.
const DOMAIN: &[u8] = b"hookport audit entry v1\0";

/// What kind of actor did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorKind {
    /// The holder of an API key.
    Key,
    /// A gateway process, by itself.
    Process,
    /// Somebody at the command line.
    Command,
}

impl ActorKind {
    const ALL: [Self; 3] = [Self::Key, Self::Process, Self::Command];

    /// The name in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Process => "process",
            Self::Command => "command",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// What kind.
    pub kind: ActorKind,
    /// `key_…`, `wrk_…`, or the user of the operating system: `uid:0`.
    pub id: String,
    /// The key's name, the process's role, the command.
    pub name: String,
}

impl Actor {
    /// The holder of an API key.
    #[must_use]
    pub fn key(id: KeyId, name: &str) -> Self {
        Self {
            kind: ActorKind::Key,
            id: id.to_string(),
            name: name.to_owned(),
        }
    }

    /// A gateway process.
    #[must_use]
    pub fn process(id: WorkerId, role: &str) -> Self {
        Self {
            kind: ActorKind::Process,
            id: id.to_string(),
            name: role.to_owned(),
        }
    }

    /// Somebody at the command line.
    #[must_use]
    pub fn command(user_id: u32, command: &str) -> Self {
        Self {
            kind: ActorKind::Command,
            id: format!("uid:{user_id}"),
            name: command.to_owned(),
        }
    }
}

/// Who did something, and by which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// Who.
    pub actor: Actor,
    /// As the log has it.
    pub request_id: Option<String>,
}

impl From<Actor> for Author {
    fn from(actor: Actor) -> Self {
        Self {
            actor,
            request_id: None,
        }
    }
}

/// An entry to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub author: Author,
    /// What: `subscription.updated`.
    pub action: &'static str,
    /// What kind of thing it was done to: `subscription`.
    pub target_kind: &'static str,
    /// Which one.
    pub target_id: String,
    /// JSON text of what it was.
    pub before: Option<String>,
    /// JSON text of what it has become.
    pub after: Option<String>,
    /// Left out when the newest entry about its target says the same; `before` is what that one
    /// says. For what several processes see, each at every start.
    pub once: bool,
}

impl NewEntry {
    /// An entry about a thing.
    #[must_use]
    pub fn new(
        at: Timestamp,
        author: impl Into<Author>,
        action: &'static str,
        target_kind: &'static str,
        target_id: impl fmt::Display,
    ) -> Self {
        Self {
            at,
            author: author.into(),
            action,
            target_kind,
            target_id: target_id.to_string(),
            before: None,
            after: None,
            once: false,
        }
    }

    /// With what the thing was.
    #[must_use]
    pub fn before(mut self, shown: &impl Serialize) -> Self {
        self.before = serde_json::to_string(shown).ok();
        self
    }

    /// With what the thing has become.
    #[must_use]
    pub fn after(mut self, shown: &impl Serialize) -> Self {
        self.after = serde_json::to_string(shown).ok();
        self
    }

    /// Only where it says something new about its target.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

/// SHA-256 over an entry and the hash of the one before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EntryHash(pub [u8; 32]);

impl fmt::Display for EntryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EntryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EntryHash {
    type Err = ParseAnchorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(ParseAnchorError);
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = &text[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseAnchorError)?;
        }
        Ok(Self(bytes))
    }
}

/// The text is no anchor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give SEQUENCE:HASH as an earlier check printed it")]
pub struct ParseAnchorError;

/// A place in the chain: the number of an entry and its hash. Kept elsewhere, it shows later
/// whether what it stands for is still there and as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// 1 for the first entry; 0 before it.
    pub seq: i64,
    /// Of that entry.
    pub hash: EntryHash,
}

impl Anchor {
    /// Before the first entry.
    pub const START: Self = Self {
        seq: 0,
        hash: EntryHash([0; 32]),
    };
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for Anchor {
    type Err = ParseAnchorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (seq, hash) = text.split_once(':').ok_or(ParseAnchorError)?;
        Ok(Self {
            seq: seq.parse().map_err(|_| ParseAnchorError)?,
            hash: hash.parse()?,
        })
    }
}

/// An entry on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, without gaps.
    pub seq: i64,
    /// When, in milliseconds since the Unix epoch, by the clock of the process that wrote it.
    pub at: Timestamp,
    /// Who.
    pub author: Author,
    /// What.
    pub action: String,
    /// What kind of thing it was done to.
    pub target_kind: String,
    /// Which one.
    pub target_id: String,
    /// JSON text of what it was.
    pub before: Option<String>,
    /// JSON text of what it became.
    pub after: Option<String>,
    /// As on record.
    pub hash: EntryHash,
}

impl Entry {
    /// `new` at the end of the chain.
    #[must_use]
    pub fn following(last: &Anchor, new: NewEntry) -> Self {
        let mut entry = Self {
            seq: last.seq + 1,
            at: new.at,
            author: new.author,
            action: new.action.to_owned(),
            target_kind: new.target_kind.to_owned(),
            target_id: new.target_id,
            before: new.before,
            after: new.after,
            hash: Anchor::START.hash,
        };
        entry.hash = entry.hash_after(&last.hash);
        entry
    }

    /// Its place.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        Anchor {
            seq: self.seq,
            hash: self.hash,
        }
    }

    /// What its hash must be. Numbers are 8 bytes, big end first; a text is its length and its
    /// bytes; what may be absent begins with 0 or 1.
    fn hash_after(&self, previous: &EntryHash) -> EntryHash {
        let actor = &self.author.actor;
        let mut hasher = Sha256::new_with_prefix(DOMAIN);
        hasher.update(previous.0);
        hasher.update(self.seq.to_be_bytes());
        hasher.update(self.at.0.to_be_bytes());
        for text in [
            actor.kind.as_str(),
            &actor.id,
            &actor.name,
            &self.action,
            &self.target_kind,
            &self.target_id,
        ] {
            update_text(&mut hasher, text);
        }
        for text in [&self.before, &self.after, &self.author.request_id] {
            hasher.update([u8::from(text.is_some())]);
            update_text(&mut hasher, text.as_deref().unwrap_or_default());
        }
        EntryHash(hasher.finalize().into())
    }
}

fn update_text(hasher: &mut Sha256, text: &str) {
    hasher.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
    hasher.update(text);
}

/// The chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An entry is not there.
    #[error("entry {0} is missing: it was removed, or its number was changed")]
    Missing(i64),
    /// An entry does not fit its hash or the one before it.
    #[error("entry {0} was altered, moved or replaced, or the one before it was")]
    Altered(i64),
    /// There is more than was ever written.
    #[error("entry {0} was inserted: it lies outside of the chain")]
    Inserted(i64),
    /// What is known from elsewhere is not what is on record.
    #[error(
        "entry {0} is not the one that was expected: the trail was written anew, or is another one"
    )]
    Unexpected(i64),
}

/// Follows a chain from its beginning, an entry at a time.
#[derive(Clone, Copy, Debug)]
pub struct Follower {
    last: Anchor,
}

impl Default for Follower {
    fn default() -> Self {
        Self {
            last: Anchor::START,
        }
    }
}

impl Follower {
    /// The last entry that was followed.
    #[must_use]
    pub fn last(&self) -> Anchor {
        self.last
    }

    /// Takes the next entry, in the order of their numbers.
    ///
    /// # Errors
    /// When it does not follow.
    pub fn follow(&mut self, entry: &Entry) -> Result<(), Broken> {
        let expected = self.last.seq + 1;
        if entry.seq < expected {
            return Err(Broken::Inserted(entry.seq));
        }
        if entry.seq > expected {
            return Err(Broken::Missing(expected));
        }
        if entry.hash != entry.hash_after(&self.last.hash) {
            return Err(Broken::Altered(entry.seq));
        }
        self.last = entry.anchor();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(count: i64) -> Vec<Entry> {
        let mut last = Anchor::START;
        (0..count)
            .map(|index| {
                let author = Author {
                    actor: Actor::command(0, "key create"),
                    request_id: Some("r".to_owned()),
                };
                let new = NewEntry::new(Timestamp(index), author, "key.created", "key", index)
                    .before(&index)
                    .after(&"x");
                let entry = Entry::following(&last, new);
                last = entry.anchor();
                entry
            })
            .collect()
    }

    fn follow(entries: &[Entry]) -> Result<Anchor, Broken> {
        let mut follower = Follower::default();
        entries
            .iter()
            .try_for_each(|entry| follower.follow(entry))?;
        Ok(follower.last())
    }

    #[test]
    fn a_chain_is_followed_to_its_end() {
        let entries = chain(5);
        assert_eq!(follow(&entries), Ok(entries[4].anchor()));
        assert_eq!(follow(&[]), Ok(Anchor::START));
    }

    #[test]
    fn every_field_counts() {
        let check = |change: &dyn Fn(&mut Entry)| {
            let mut entries = chain(3);
            change(&mut entries[1]);
            assert_eq!(follow(&entries), Err(Broken::Altered(2)), "{entries:?}");
        };
        check(&|entry| entry.at = Timestamp(99));
        check(&|entry| entry.author.actor.kind = ActorKind::Key);
        check(&|entry| entry.author.actor.id = "uid:1".to_owned());
        check(&|entry| entry.author.actor.name = "other".to_owned());
        check(&|entry| entry.author.request_id = None);
        check(&|entry| entry.author.request_id = Some(String::new()));
        check(&|entry| entry.action = "key.revoked".to_owned());
        check(&|entry| entry.target_kind = "source".to_owned());
        check(&|entry| entry.target_id.push('0'));
        check(&|entry| entry.before = None);
        check(&|entry| entry.after = Some("\"y\"".to_owned()));
        check(&|entry| entry.hash.0[31] ^= 1);
        // A character that moves from one field to the next.
        check(&|entry| {
            entry.author.actor.id = "uid:0k".to_owned();
            entry.author.actor.name = "ey create".to_owned();
        });
    }

    #[test]
    fn what_is_removed_moved_inserted_or_hashed_anew_is_found() {
        let entries = chain(4);
        let mut removed = entries.clone();
        removed.remove(1);
        assert_eq!(follow(&removed), Err(Broken::Missing(2)));
        let mut first = entries.clone();
        first.remove(0);
        assert_eq!(follow(&first), Err(Broken::Missing(1)));
        let mut swapped = entries.clone();
        swapped.swap(1, 2);
        (swapped[1].seq, swapped[2].seq) = (2, 3);
        assert_eq!(follow(&swapped), Err(Broken::Altered(2)));
        let mut inserted = entries.clone();
        inserted.insert(
            0,
            Entry {
                seq: 0,
                ..entries[0].clone()
            },
        );
        assert_eq!(follow(&inserted), Err(Broken::Inserted(0)));
        let mut rehashed = entries;
        rehashed[1].action = "key.revoked".to_owned();
        rehashed[1].hash = rehashed[1].hash_after(&rehashed[0].hash);
        assert_eq!(follow(&rehashed), Err(Broken::Altered(3)));
    }

    #[test]
    fn anchors_are_text_and_back() {
        let anchor = chain(2)[1].anchor();
        assert_eq!(anchor.to_string().parse(), Ok(anchor));
        for wrong in [
            "",
            "1",
            "1:",
            "x:00",
            "1:zz",
            &format!("1:{}", "é".repeat(32)),
        ] {
            assert!(wrong.parse::<Anchor>().is_err(), "{wrong}");
        }
    }
}

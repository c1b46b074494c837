//! The registry's decisions, without I/O: which file belongs to which provider, which component
//! serves, and what is to be told.
//!
//! A provider belongs to one file. A file that provides one keeps it, whatever its content
//! becomes, until it is deleted; a second file that claims the same id is refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::directory::{Found, Signature};
use super::documents::Preparation;
use super::grants::{self, Decision, FileGrant, GRANTS_FILE, Grants};
use crate::domain::clock::Timestamp;
use crate::domain::provider::{
    ComponentReport, ComponentState, Descriptor, ProviderId, ProviderReport,
};
use crate::plugin::EffectivePermissions;
use crate::plugin::engine::LoadedCode;
use crate::store::GrantRecord;

/// A file that has not changed for so long is taken as complete at the first look.
const SETTLED: Duration = Duration::from_secs(2);

/// A component that was verified, compiled and described.
pub(super) struct Version {
    pub(super) file: String,
    pub(super) digest: String,
    pub(super) code: LoadedCode,
    pub(super) descriptor: Arc<Descriptor>,
    pub(super) preparation: Mutex<Preparation>,
}

impl Version {
    /// As it serves, since `changed_at`.
    pub(super) fn report(&self, changed_at: Timestamp) -> ComponentReport {
        ComponentReport {
            file: self.file.clone(),
            digest: self.digest.clone(),
            state: ComponentState::Serving,
            descriptor: Some(self.descriptor.clone()),
            changed_at,
        }
    }

    /// How far the documents stored for it are.
    pub(super) fn preparation(&self) -> Preparation {
        self.preparation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_preparation(&self, preparation: Preparation) {
        *self
            .preparation
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = preparation;
    }
}

/// A file to be loaded.
pub(super) struct Look {
    pub(super) file: String,
    pub(super) signature: Signature,
    pub(super) generation: u64,
    /// What the file held when it was last accepted.
    pub(super) accepted: Option<Arc<Version>>,
}

/// How loading ended.
pub(super) enum Outcome {
    Ready(Arc<Version>),
    Refused {
        digest: String,
        reason: String,
    },
    /// The file changed under way.
    Changing,
}

/// The newest content of a file.
enum Latest {
    Loading,
    Ready(Arc<Version>),
    Refused { digest: String, reason: String },
}

/// What was decided on the newest content.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Loading,
    Serving,
    Awaiting(Vec<String>),
    Rejected(String),
}

struct File {
    /// As of the last look, and when it was first seen so; `None` for what is never loaded.
    looked: Option<(Signature, Instant)>,
    /// Of what `latest` is about.
    taken: Option<Signature>,
    generation: u64,
    latest: Latest,
    /// The newest component that was granted all it needs; it serves until the next one.
    accepted: Option<Arc<Version>>,
    verdict: Verdict,
    /// Digest and verdict last announced.
    announced: Option<(String, Verdict)>,
    changed_at: Timestamp,
    accepted_at: Timestamp,
    loading: Option<AbortHandle>,
}

impl File {
    fn new(now: Timestamp) -> Self {
        Self {
            looked: None,
            taken: None,
            generation: 0,
            latest: Latest::Loading,
            accepted: None,
            verdict: Verdict::Loading,
            announced: None,
            changed_at: now,
            accepted_at: now,
            loading: None,
        }
    }

    fn ready(&self) -> Option<&Arc<Version>> {
        match &self.latest {
            Latest::Ready(version) => Some(version),
            Latest::Loading | Latest::Refused { .. } => None,
        }
    }

    /// The provider that this file is tied to.
    fn provider(&self) -> Option<&ProviderId> {
        let version = self.accepted.as_ref().or_else(|| self.ready())?;
        Some(&version.descriptor.id)
    }

    fn digest(&self) -> &str {
        match &self.latest {
            Latest::Loading => "",
            Latest::Ready(version) => &version.digest,
            Latest::Refused { digest, .. } => digest,
        }
    }

    /// The newest content, as reported.
    fn report(&self, name: &str) -> ComponentReport {
        ComponentReport {
            file: name.to_owned(),
            digest: self.digest().to_owned(),
            state: match &self.verdict {
                Verdict::Loading => ComponentState::Loading,
                Verdict::Serving => ComponentState::Serving,
                Verdict::Awaiting(_) => ComponentState::AwaitingGrant,
                Verdict::Rejected(reason) => ComponentState::Rejected(reason.clone()),
            },
            descriptor: self.ready().map(|version| version.descriptor.clone()),
            changed_at: self.changed_at,
        }
    }

    fn stop_loading(&mut self) {
        if let Some(task) = self.loading.take() {
            task.abort();
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.stop_loading();
    }
}

/// A change to be told of.
pub(super) struct Announcement {
    pub(super) provider: Option<ProviderId>,
    pub(super) report: ComponentReport,
    /// What a waiting component is not granted.
    pub(super) missing: Vec<String>,
}

/// What was decided.
pub(super) struct Settled {
    pub(super) serving: HashMap<ProviderId, (Arc<Version>, EffectivePermissions)>,
    pub(super) announcements: Vec<Announcement>,
    /// Grants now pinned to another component, to be put on record.
    pub(super) carried_over: Vec<GrantRecord>,
    /// Components that could serve once stored documents are migrated.
    pub(super) to_prepare: Vec<Arc<Version>>,
}

/// Everything known.
pub(super) struct State {
    files: BTreeMap<String, File>,
    grants: Grants,
    grants_signature: Option<Signature>,
    grants_problem: Option<(String, Timestamp)>,
    /// Nothing is decided before the first load is through, so that the order in which files
    /// happen to be loaded decides nothing.
    held: bool,
    settle_interval: Duration,
    generations: u64,
    owners: BTreeMap<ProviderId, String>,
    serving: BTreeSet<ProviderId>,
}

impl State {
    /// With the grants on record. A file that changed lately is taken after it has not changed
    /// for `settle_interval`.
    pub(super) fn new(stored: Vec<GrantRecord>, settle_interval: Duration) -> Self {
        Self {
            files: BTreeMap::new(),
            grants: Grants {
                file: BTreeMap::new(),
                stored: stored
                    .into_iter()
                    .map(|record| (record.provider.clone(), record))
                    .collect(),
            },
            grants_signature: None,
            grants_problem: None,
            held: true,
            settle_interval,
            generations: 0,
            owners: BTreeMap::new(),
            serving: BTreeSet::new(),
        }
    }

    /// The first load is through.
    pub(super) fn release(&mut self) {
        self.held = false;
    }

    pub(super) fn grants_signature(&self) -> Option<Signature> {
        self.grants_signature
    }

    /// Whether a file waits for its second look.
    pub(super) fn unsettled(&self) -> bool {
        self.files
            .values()
            .any(|file| file.looked.map(|(signature, _)| signature) != file.taken)
    }

    /// Takes the grants file as it is now. A wrong one changes nothing but the report.
    pub(super) fn take_grants_file(
        &mut self,
        signature: Option<Signature>,
        text: Result<String, String>,
        now: Timestamp,
    ) {
        self.grants_signature = signature;
        let parsed: Result<BTreeMap<ProviderId, FileGrant>, String> =
            text.and_then(|text| grants::parse_file(&text).map_err(|error| error.to_string()));
        match parsed {
            Ok(file) => {
                for id in file.keys().filter(|id| self.overridden(id, &file)) {
                    tracing::warn!(
                        provider = %id,
                        "{GRANTS_FILE} differs from the grant given through the API, which counts"
                    );
                }
                self.grants.file = file;
                self.grants_problem = None;
            }
            Err(problem) => {
                tracing::error!(problem, "{GRANTS_FILE} is wrong; the grants before it stay");
                self.grants_problem = Some((problem, now));
            }
        }
    }

    fn overridden(&self, id: &ProviderId, file: &BTreeMap<ProviderId, FileGrant>) -> bool {
        match (self.grants.stored.get(id), file.get(id)) {
            (Some(record), Some(table)) => record.grant != table.grant,
            _ => false,
        }
    }

    /// A grant that came through the API and is on record.
    pub(super) fn take_grant(&mut self, record: GrantRecord) {
        self.grants.stored.insert(record.provider.clone(), record);
    }

    /// Whether `record` is what counts for its provider.
    pub(super) fn is_current(&self, record: &GrantRecord) -> bool {
        self.grants.stored.get(&record.provider) == Some(record)
    }

    /// Takes in what the directory holds, and says what to load.
    pub(super) fn look(
        &mut self,
        found: BTreeMap<String, Found>,
        now: Timestamp,
        at: Instant,
    ) -> Vec<Look> {
        self.files.retain(|name, file| {
            let stays = found.contains_key(name);
            if !stays {
                tracing::info!(
                    file = name,
                    provider = file.provider().map(ProviderId::as_str),
                    "component removed from the providers directory"
                );
            }
            stays
        });
        let mut to_load = Vec::new();
        for (name, what) in found {
            let file = self
                .files
                .entry(name.clone())
                .or_insert_with(|| File::new(now));
            let signature = match what {
                Found::File(signature) => signature,
                Found::Odd(reason) => {
                    file.stop_loading();
                    file.generation = 0;
                    (file.looked, file.taken) = (None, None);
                    file.latest = Latest::Refused {
                        digest: String::new(),
                        reason: reason.to_owned(),
                    };
                    continue;
                }
            };
            let since = match file.looked {
                Some((before, since)) if before == signature => since,
                _ => at,
            };
            file.looked = Some((signature, since));
            let stable = at.saturating_duration_since(since) >= self.settle_interval
                || now.since(signature.changed_at()) >= SETTLED;
            if !stable || file.taken == Some(signature) {
                continue;
            }
            file.stop_loading();
            self.generations += 1;
            file.generation = self.generations;
            file.taken = Some(signature);
            file.latest = Latest::Loading;
            to_load.push(Look {
                file: name,
                signature,
                generation: file.generation,
                accepted: file.accepted.clone(),
            });
        }
        to_load
    }

    /// Remembers how to stop a load that has become pointless.
    pub(super) fn started(&mut self, file: &str, generation: u64, task: AbortHandle) {
        match self.files.get_mut(file) {
            Some(file) if file.generation == generation => file.loading = Some(task),
            _ => task.abort(),
        }
    }

    /// Takes in how a load ended, unless the file is another by now.
    pub(super) fn loaded(&mut self, look: &Look, outcome: Outcome) {
        let Some(file) = self.files.get_mut(&look.file) else {
            return;
        };
        if file.generation != look.generation {
            return;
        }
        file.loading = None;
        match outcome {
            Outcome::Ready(version) => file.latest = Latest::Ready(version),
            Outcome::Refused { digest, reason } => file.latest = Latest::Refused { digest, reason },
            // Taken when it has stayed as it then is for a while.
            Outcome::Changing => {
                (file.looked, file.taken) = (Some((look.signature, Instant::now())), None);
            }
        }
    }

    /// Decides on every file. `None` while held.
    pub(super) fn settle(&mut self, now: Timestamp) -> Option<Settled> {
        if self.held {
            return None;
        }
        let owners = self.elect();
        let mut serving = HashMap::new();
        let mut carried_over = Vec::new();
        let mut to_prepare = Vec::new();
        for (name, file) in &mut self.files {
            let owner = file.provider().and_then(|id| owners.get(id));
            file.verdict = match (&file.latest, owner) {
                (Latest::Loading, _) => Verdict::Loading,
                (Latest::Refused { reason, .. }, _) => Verdict::Rejected(reason.clone()),
                (Latest::Ready(version), Some(owner)) if owner != name => {
                    file.accepted = None;
                    Verdict::Rejected(format!(
                        "claims the provider id {:?}, which belongs to {owner}: delete one of the two files",
                        version.descriptor.id.as_str()
                    ))
                }
                (Latest::Ready(version), _) => judge(&self.grants, file.accepted.as_ref(), version),
            };
            if let (Verdict::Serving, Latest::Ready(version)) = (&file.verdict, &file.latest)
                && !file
                    .accepted
                    .as_ref()
                    .is_some_and(|accepted| Arc::ptr_eq(accepted, version))
            {
                match version.preparation() {
                    Preparation::Done => {
                        file.accepted = Some(version.clone());
                        file.accepted_at = now;
                    }
                    Preparation::Refused { reason, .. } => file.verdict = Verdict::Rejected(reason),
                    Preparation::UnderWay => file.verdict = Verdict::Loading,
                    Preparation::Due => {
                        file.verdict = Verdict::Loading;
                        version.set_preparation(Preparation::UnderWay);
                        to_prepare.push(version.clone());
                    }
                }
            }
            let Some(version) = &file.accepted else {
                continue;
            };
            let id = &version.descriptor.id;
            let asked = &version.descriptor.permissions;
            if let Decision::Serve {
                effective,
                carried_over: carried,
            } = self.grants.decide(id, &version.digest, asked)
            {
                if carried && let Some(record) = self.grants.stored.get_mut(id) {
                    record.digest.clone_from(&version.digest);
                    carried_over.push(record.clone());
                }
                serving.insert(id.clone(), (version.clone(), effective));
            }
        }
        self.owners = owners;
        self.serving = serving.keys().cloned().collect();
        Some(Settled {
            serving,
            announcements: self.news(now),
            carried_over,
            to_prepare,
        })
    }

    /// The file that each provider belongs to: the one that provides it already; else the one
    /// whose content a grant is pinned to; else the one named after it; else the first by name.
    fn elect(&self) -> BTreeMap<ProviderId, String> {
        let mut best: BTreeMap<ProviderId, (_, String)> = BTreeMap::new();
        for (name, file) in &self.files {
            let Some(id) = file.provider() else {
                continue;
            };
            let named_after = name.strip_suffix(".wasm") == Some(id.as_str());
            let rank = (
                file.accepted.is_none(),
                !self.grants.pinned(id, file.digest()),
                !named_after,
            );
            match best.get(id) {
                Some((found, _)) if *found <= rank => {}
                _ => {
                    best.insert(id.clone(), (rank, name.clone()));
                }
            }
        }
        best.into_iter().map(|(id, (_, name))| (id, name)).collect()
    }

    /// What changed since the last time it was told.
    fn news(&mut self, now: Timestamp) -> Vec<Announcement> {
        let mut news = Vec::new();
        for (name, file) in &mut self.files {
            let current = (file.digest().to_owned(), file.verdict.clone());
            if file.announced.as_ref() == Some(&current) {
                continue;
            }
            file.announced = Some(current);
            file.changed_at = now;
            news.push(Announcement {
                provider: file.provider().cloned(),
                report: file.report(name),
                missing: match &file.verdict {
                    Verdict::Awaiting(missing) => missing.clone(),
                    _ => Vec::new(),
                },
            });
        }
        news
    }

    /// Components that do not serve because documents cannot be migrated.
    pub(super) fn refused_migrations(&self) -> Vec<Arc<Version>> {
        let ready = self.files.values().filter_map(File::ready);
        ready
            .filter(|version| matches!(version.preparation(), Preparation::Refused { .. }))
            .cloned()
            .collect()
    }

    /// The newest component of a provider: the one that waits, else the one that serves.
    pub(super) fn newest(&self, id: &ProviderId) -> Option<Arc<Version>> {
        let file = self.files.get(self.owners.get(id)?)?;
        let waiting = file.ready().filter(|version| version.descriptor.id == *id);
        waiting.or(file.accepted.as_ref()).cloned()
    }

    pub(super) fn reports(&self) -> Vec<ProviderReport> {
        self.owners
            .keys()
            .filter_map(|id| self.report(id))
            .collect()
    }

    pub(super) fn report(&self, id: &ProviderId) -> Option<ProviderReport> {
        let name = self.owners.get(id)?;
        let file = self.files.get(name)?;
        let accepted = file.accepted.as_ref().filter(|_| self.serving.contains(id));
        let serving = accepted.map(|version| version.report(file.accepted_at));
        let candidate = (file.verdict != Verdict::Serving).then(|| file.report(name));
        Some(ProviderReport {
            id: id.clone(),
            serving,
            candidate,
            grant: self.grants.of(id).cloned(),
        })
    }

    /// Files that are no provider, and the grants file when it is wrong.
    pub(super) fn rejected_files(&self) -> Vec<ComponentReport> {
        let grants = self
            .grants_problem
            .iter()
            .map(|(problem, at)| ComponentReport {
                file: GRANTS_FILE.to_owned(),
                digest: String::new(),
                state: ComponentState::Rejected(problem.clone()),
                descriptor: None,
                changed_at: *at,
            });
        let owned = |name: &String| self.owners.values().any(|owner| owner == name);
        self.files
            .iter()
            .filter(|(name, _)| !owned(name))
            .map(|(name, file)| file.report(name))
            .chain(grants)
            .collect()
    }

    /// Why a provider answers no calls.
    pub(super) fn why_not(&self, id: &ProviderId) -> String {
        let Some(file) = self.owners.get(id).and_then(|name| self.files.get(name)) else {
            return format!("no provider {id} is installed");
        };
        match &file.verdict {
            Verdict::Loading => format!("the provider {id} is being loaded"),
            Verdict::Awaiting(missing) => format!(
                "the provider {id} waits for a grant of {}",
                missing.join(", ")
            ),
            Verdict::Rejected(reason) => format!("the provider {id} cannot be used: {reason}"),
            Verdict::Serving => format!("the provider {id} has just begun to serve"),
        }
    }
}

/// Decides on a newly loaded component of a file that its provider belongs to.
fn judge(grants: &Grants, accepted: Option<&Arc<Version>>, version: &Arc<Version>) -> Verdict {
    let descriptor = &version.descriptor;
    if let Some(accepted) = accepted
        && accepted.descriptor.id != descriptor.id
    {
        return Verdict::Rejected(format!(
            "claims the provider id {:?}, but this file provides {:?}: give it a file of its own, or delete this one first",
            descriptor.id.as_str(),
            accepted.descriptor.id.as_str()
        ));
    }
    match grants.decide(&descriptor.id, &version.digest, &descriptor.permissions) {
        Decision::Serve { .. } => Verdict::Serving,
        Decision::Await(missing) => Verdict::Awaiting(missing),
    }
}

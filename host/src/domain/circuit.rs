//! The circuit breaker of a destination, without clock or store: time comes as a parameter.
//!
//! Closed, it counts failures that blame the destination, in a row. Open, it holds deliveries
//! back and lets one through from time to time (the half-open probe), with a wait that doubles up
//! to a cap. Any answer of the destination closes it.

use std::time::Duration;

use super::clock::Timestamp;
use super::id::SubscriptionId;

/// When the circuit opens, and how it is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitPolicy {
    /// So many failures in a row open it; at least 1.
    pub failures: u32,
    /// Milliseconds from the opening to the first probe.
    pub probe_after_ms: u64,
    /// The longest wait between probes, in milliseconds.
    pub probe_after_ms_max: u64,
}

impl Default for CircuitPolicy {
    fn default() -> Self {
        Self {
            failures: 10,
            probe_after_ms: 10_000,
            probe_after_ms_max: 300_000,
        }
    }
}

impl CircuitPolicy {
    /// The wait after `probes` failed probes.
    fn wait(&self, probes: u32) -> Duration {
        let doubled = self
            .probe_after_ms
            .saturating_mul(1_u64.checked_shl(probes).unwrap_or(u64::MAX));
        Duration::from_millis(doubled.min(self.probe_after_ms_max.max(self.probe_after_ms)))
    }
}

/// What an attempt says of the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered: it is there, whatever it thought of the request.
    Answered,
    /// It could not be reached, took too long, or said that it cannot serve now.
    Blamed {
        /// In words.
        reason: String,
        /// It asked not to be called before this long.
        not_before: Option<Duration>,
    },
    /// Nothing: the attempt failed before it got there.
    Unknown,
}

/// An open circuit, as it is kept on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCircuit {
    /// Whose.
    pub subscription: SubscriptionId,
    /// When it opened.
    pub since: Timestamp,
    /// The failure that opened it, or the last probe's.
    pub reason: String,
    /// Probes that failed.
    pub probes: u32,
    /// When the next delivery is let through.
    pub next_probe_at: Timestamp,
}

/// Whom an open or closed circuit lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Everyone.
    All,
    /// One delivery.
    Probe,
    /// Nobody before this instant, or, when a probe is under way, before it has ended.
    NobodyUntil(Option<Timestamp>),
}

/// What an attempt changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// Nothing that has to be told or kept.
    #[default]
    None,
    /// The circuit opened just now.
    Opened(OpenCircuit),
    /// It stays open, with another probe to come.
    ProbeFailed(OpenCircuit),
    /// It closed: what it was.
    Closed(OpenCircuit),
}

/// The circuit of one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    failures: u32,
    open: Option<OpenCircuit>,
    /// A probe is under way, and is taken for lost after this.
    probing_until: Option<Timestamp>,
}

impl Circuit {
    /// Takes up what was on record.
    #[must_use]
    pub fn restored(open: OpenCircuit) -> Self {
        Self {
            failures: 0,
            open: Some(open),
            probing_until: None,
        }
    }

    /// One put together from its parts, as [`Circuit::failures`], [`Circuit::open`] and
    /// [`Circuit::probing_until`] gave them.
    #[must_use]
    pub fn from_parts(
        failures: u32,
        open: Option<OpenCircuit>,
        probing_until: Option<Timestamp>,
    ) -> Self {
        Self {
            failures,
            open,
            probing_until,
        }
    }

    /// Failures in a row while it is closed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// What it is when it is open.
    #[must_use]
    pub fn open(&self) -> Option<&OpenCircuit> {
        self.open.as_ref()
    }

    /// Until when a probe is waited for.
    #[must_use]
    pub fn probing_until(&self) -> Option<Timestamp> {
        self.probing_until
    }

    fn is_probing(&self, now: Timestamp) -> bool {
        self.probing_until.is_some_and(|until| until > now)
    }

    /// Closed, and no failure since the last answer.
    #[must_use]
    pub fn is_pristine(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whom it lets through now.
    #[must_use]
    pub fn admission(&self, now: Timestamp) -> Admission {
        match &self.open {
            None => Admission::All,
            Some(_) if self.is_probing(now) => Admission::NobodyUntil(None),
            Some(open) if open.next_probe_at <= now => Admission::Probe,
            Some(open) => Admission::NobodyUntil(Some(open.next_probe_at)),
        }
    }

    /// A delivery sets out, and is waited for until `until`. True: it is the probe.
    pub fn set_out(&mut self, now: Timestamp, until: Timestamp) -> bool {
        let probe = self.open.is_some() && !self.is_probing(now);
        if probe {
            self.probing_until = Some(until);
        }
        probe
    }

    /// The probe ended without saying anything of the destination: another one is due after the
    /// first wait.
    pub fn probe_was_lost(&mut self, policy: &CircuitPolicy, now: Timestamp) {
        self.probing_until = None;
        if let Some(open) = &mut self.open {
            open.next_probe_at = now.plus(policy.wait(0));
        }
    }

    /// An attempt ended. `probe`: it was let through as one.
    pub fn judge(
        &mut self,
        subscription: SubscriptionId,
        policy: &CircuitPolicy,
        verdict: Verdict,
        probe: bool,
        now: Timestamp,
    ) -> Change {
        match verdict {
            Verdict::Answered => match std::mem::take(self).open {
                Some(open) => Change::Closed(open),
                None => Change::None,
            },
            Verdict::Unknown => {
                if probe {
                    self.probe_was_lost(policy, now);
                }
                Change::None
            }
            Verdict::Blamed { reason, not_before } => {
                let next_probe_at = |probes| {
                    let wait = policy.wait(probes);
                    now.plus(not_before.map_or(wait, |asked| wait.max(asked)))
                };
                match &mut self.open {
                    None => {
                        self.failures = self.failures.saturating_add(1);
                        if self.failures < policy.failures {
                            return Change::None;
                        }
                        let open = OpenCircuit {
                            subscription,
                            since: now,
                            reason,
                            probes: 0,
                            next_probe_at: next_probe_at(0),
                        };
                        *self = Self::restored(open.clone());
                        Change::Opened(open)
                    }
                    Some(open) if probe => {
                        open.probes = open.probes.saturating_add(1);
                        open.reason = reason;
                        open.next_probe_at = next_probe_at(open.probes);
                        self.probing_until = None;
                        Change::ProbeFailed(open.clone())
                    }
                    // It set out before the circuit opened, and says nothing new.
                    Some(_) => Change::None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: CircuitPolicy = CircuitPolicy {
        failures: 3,
        probe_after_ms: 10,
        probe_after_ms_max: 35,
    };

    fn id() -> SubscriptionId {
        ulid::Ulid(7).into()
    }

    fn blamed() -> Verdict {
        Verdict::Blamed {
            reason: "down".to_owned(),
            not_before: None,
        }
    }

    fn judge(circuit: &mut Circuit, verdict: Verdict, probe: bool, at: i64) -> Change {
        circuit.judge(id(), &POLICY, verdict, probe, Timestamp(at))
    }

    fn opened(at: i64) -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 0..2 {
            assert_eq!(judge(&mut circuit, blamed(), false, at), Change::None);
            assert_eq!(circuit.admission(Timestamp(at)), Admission::All);
        }
        let change = judge(&mut circuit, blamed(), false, at);
        assert!(matches!(change, Change::Opened(_)), "{change:?}");
        circuit
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let mut circuit = Circuit::default();
        for _ in 0..5 {
            judge(&mut circuit, blamed(), false, 0);
            judge(&mut circuit, Verdict::Unknown, false, 0);
            judge(&mut circuit, blamed(), false, 0);
            assert_eq!(
                judge(&mut circuit, Verdict::Answered, false, 0),
                Change::None
            );
            assert!(circuit.is_pristine());
        }
        opened(0);
    }

    #[test]
    fn one_probe_at_a_time_and_the_wait_doubles_up_to_its_cap() {
        let mut circuit = opened(0);
        let mut now = 0;
        for wait in [10, 20, 35, 35] {
            let due = Timestamp(now + wait);
            assert_eq!(
                circuit.admission(Timestamp(due.0 - 1)),
                Admission::NobodyUntil(Some(due))
            );
            assert_eq!(circuit.admission(due), Admission::Probe);
            let late = due.plus(Duration::from_millis(9));
            assert!(circuit.set_out(due, late));
            assert!(!circuit.set_out(due, late), "not a second one");
            assert_eq!(circuit.admission(due), Admission::NobodyUntil(None));
            assert_eq!(
                circuit.admission(late),
                Admission::Probe,
                "it never came back"
            );
            now = due.0;
            let change = judge(&mut circuit, blamed(), true, now);
            assert!(matches!(change, Change::ProbeFailed(_)), "{change:?}");
        }
    }

    #[test]
    fn an_answer_closes_it_and_the_count_begins_anew() {
        let mut circuit = opened(5);
        assert!(circuit.set_out(Timestamp(15), Timestamp(100)));
        let change = judge(&mut circuit, Verdict::Answered, true, 20);
        let Change::Closed(open) = change else {
            panic!("{change:?}");
        };
        assert_eq!((open.since, open.reason.as_str()), (Timestamp(5), "down"));
        assert!(circuit.is_pristine());
        assert_eq!(judge(&mut circuit, blamed(), false, 30), Change::None);
    }

    #[test]
    fn a_straggler_changes_nothing_but_an_answer_counts() {
        let mut circuit = opened(0);
        let before = circuit.clone();
        assert_eq!(judge(&mut circuit, blamed(), false, 3), Change::None);
        assert_eq!(circuit, before);
        let change = judge(&mut circuit, Verdict::Answered, false, 4);
        assert!(matches!(change, Change::Closed(_)), "{change:?}");
    }

    #[test]
    fn a_probe_that_says_nothing_is_followed_by_another() {
        let mut circuit = opened(0);
        assert!(circuit.set_out(Timestamp(10), Timestamp(100)));
        judge(&mut circuit, Verdict::Unknown, true, 10);
        assert_eq!(
            circuit.admission(Timestamp(10)),
            Admission::NobodyUntil(Some(Timestamp(20)))
        );
        assert_eq!(circuit.admission(Timestamp(20)), Admission::Probe);
    }

    #[test]
    fn the_destinations_own_wish_delays_the_probe() {
        let mut circuit = Circuit::default();
        for _ in 0..3 {
            let verdict = Verdict::Blamed {
                reason: "429".to_owned(),
                not_before: Some(Duration::from_millis(500)),
            };
            judge(&mut circuit, verdict, false, 0);
        }
        assert_eq!(
            circuit.admission(Timestamp(499)),
            Admission::NobodyUntil(Some(Timestamp(500)))
        );
    }
}

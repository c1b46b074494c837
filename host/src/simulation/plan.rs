//! What may go wrong in a run, and how often: most runs have a few faults, some many, some none.

use super::time::{between, chance, one_of};

/// Rates of faults are probabilities of one step.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Whether several processes share the store; else there is one, which has it alone.
    pub(super) shared: bool,
    pub(super) processes: usize,
    /// Events emitted.
    pub(super) events: u64,

    // Between a process and the store.
    /// A command is lost before it arrives.
    pub(super) lost_commands: f64,
    /// It is carried out, and its answer is lost.
    pub(super) lost_answers: f64,
    /// It is carried out twice.
    pub(super) redone: f64,
    /// An error is answered while it is on its way.
    pub(super) disowned: f64,
    /// It takes long.
    pub(super) delayed: f64,

    // Between a process and a receiver.
    /// The request does not arrive.
    pub(super) unreachable: f64,
    /// It arrives, and the answer is lost.
    pub(super) unanswered: f64,
    /// The receiver lets it wait until the deadline.
    pub(super) hanging: f64,
    /// The receiver says no.
    pub(super) refused: f64,
    /// A filter cannot tell.
    pub(super) failing_filters: f64,

    // Weights of what happens from time to time.
    pub(super) kills: u64,
    pub(super) freezes: u64,
    pub(super) store_failures: u64,
    pub(super) store_freezes: u64,
    pub(super) clock_jumps: u64,
}

impl Plan {
    /// Draws one.
    pub(super) fn draw() -> Self {
        let rate = || {
            if chance(0.5) {
                0.0
            } else {
                one_of([0.02, 0.1, 0.3])
            }
        };
        let weight = || u64::from(chance(0.5)) * between(1..4);
        let shared = chance(0.8);
        Self {
            shared,
            processes: if shared { one_of([1, 2, 2, 3]) } else { 1 },
            events: between(8..30),
            lost_commands: rate(),
            lost_answers: rate(),
            redone: rate(),
            disowned: rate(),
            delayed: rate(),
            unreachable: rate(),
            unanswered: rate(),
            hanging: rate() / 3.0,
            refused: rate(),
            failing_filters: rate(),
            kills: weight(),
            freezes: weight(),
            store_failures: weight(),
            store_freezes: weight(),
            clock_jumps: u64::from(chance(0.3)),
        }
    }

    /// Whether all clocks agree throughout.
    pub(super) fn has_steady_clocks(&self) -> bool {
        self.clock_jumps == 0
    }
}

//! Who sent what when, and who received it: one entry an event, written without locks.
//!
//! Times are counted from one origin in this process, which is both the sender and the receiver,
//! so that no two clocks are compared.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Events a second that a phase has room for.
const EVENTS_PER_SECOND_MAX: usize = 100_000;

/// An hour: more counts as an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

#[derive(Default)]
struct Entry {
    /// Nanoseconds from the origin, 0: not sent.
    intended: AtomicU64,
    /// Nanoseconds from the origin, 0: no.
    accepted: AtomicU64,
    /// Nanoseconds from the origin of the first receipt, 0: none.
    received: AtomicU64,
    receipts: AtomicU32,
    /// Of the delivery id at the first receipt.
    delivery_hash: AtomicU64,
    /// Receipts under another delivery id than the first.
    strays: AtomicU32,
}

/// The record of one phase.
pub struct Ledger {
    origin: Instant,
    entries: Box<[Entry]>,
    next: AtomicU64,
    refused: AtomicU64,
    invented: AtomicU64,
}

/// What a phase came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Answered 202.
    pub accepted: u64,
    /// Answered otherwise, or not at all.
    pub refused: u64,
    /// Accepted and received.
    pub delivered: u64,
    /// Accepted and never received.
    pub lost: u64,
    /// Receipts beyond the first, under the same delivery id.
    pub duplicated: u64,
    /// Receipts under a second delivery id, or of events that were never sent.
    pub invented: u64,
}

impl Ledger {
    /// Room for a phase of `duration`.
    pub fn new(duration: Duration) -> Self {
        let seconds = usize::try_from(duration.as_secs()).unwrap_or(usize::MAX);
        let capacity = seconds
            .saturating_add(1)
            .saturating_mul(EVENTS_PER_SECOND_MAX);
        Self {
            origin: Instant::now(),
            entries: (0..capacity).map(|_| Entry::default()).collect(),
            next: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            invented: AtomicU64::new(0),
        }
    }

    /// The number of the next event, or `None` when there is no room left.
    pub fn next(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.entries.len() as u64).then_some(number)
    }

    /// The event is about to be sent, or should have been at `at`.
    pub fn sent(&self, number: u64, at: Instant) {
        if let Some(entry) = self.entry(number) {
            entry.intended.store(self.nanos(at), Ordering::Relaxed);
        }
    }

    /// The event was answered 202 at `at`.
    pub fn accepted(&self, number: u64, at: Instant) {
        if let Some(entry) = self.entry(number) {
            entry.accepted.store(self.nanos(at), Ordering::Relaxed);
        }
    }

    /// The event was refused, or the answer is not known.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The event was received at `at` under a delivery id; true for the first time.
    pub fn received(&self, number: u64, delivery_hash: u64, at: Instant) -> bool {
        let Some(entry) = self
            .entry(number)
            .filter(|entry| entry.intended.load(Ordering::Relaxed) != 0)
        else {
            self.invented.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        if entry.receipts.fetch_add(1, Ordering::AcqRel) == 0 {
            entry.delivery_hash.store(delivery_hash, Ordering::Relaxed);
            entry.received.store(self.nanos(at), Ordering::Release);
            return true;
        }
        if entry.delivery_hash.load(Ordering::Relaxed) != delivery_hash {
            entry.strays.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(number).ok()?)
    }

    /// Never 0, which stands for "not yet".
    fn nanos(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX).max(1)
    }

    fn used(&self) -> &[Entry] {
        let used = self
            .next
            .load(Ordering::Relaxed)
            .min(self.entries.len() as u64);
        &self.entries[..usize::try_from(used).unwrap_or(usize::MAX)]
    }

    /// The phase so far.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally {
            refused: self.refused.load(Ordering::Relaxed),
            invented: self.invented.load(Ordering::Relaxed),
            ..Tally::default()
        };
        for entry in self.used() {
            let receipts = u64::from(entry.receipts.load(Ordering::Relaxed));
            let strays = u64::from(entry.strays.load(Ordering::Relaxed));
            tally.invented += strays;
            tally.duplicated += receipts.saturating_sub(1).saturating_sub(strays);
            if entry.accepted.load(Ordering::Relaxed) != 0 {
                tally.accepted += 1;
                if receipts > 0 {
                    tally.delivered += 1;
                } else {
                    tally.lost += 1;
                }
            }
        }
        tally
    }

    /// Events accepted, and events received for the first time, between two moments.
    pub fn counts_between(&self, from: Instant, until: Instant) -> (u64, u64) {
        let window = self.nanos(from)..self.nanos(until);
        let mut counts = (0, 0);
        for entry in self.used() {
            counts.0 += u64::from(window.contains(&entry.accepted.load(Ordering::Relaxed)));
            counts.1 += u64::from(window.contains(&entry.received.load(Ordering::Relaxed)));
        }
        counts
    }

    /// Microseconds from the intended moment of sending to the first receipt, of the events
    /// intended at or after `from`.
    pub fn latencies_us(&self, from: Instant) -> Histogram<u64> {
        let from = self.nanos(from);
        let mut histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
            .expect("invariant: constant bounds and digits are allowed");
        for entry in self.used() {
            let intended = entry.intended.load(Ordering::Relaxed);
            let received = entry.received.load(Ordering::Acquire);
            if intended >= from && received != 0 {
                histogram.saturating_record(received.saturating_sub(intended) / 1_000);
            }
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_lost_duplicated_and_invented_apart() {
        let ledger = Ledger::new(Duration::from_secs(0));
        let now = Instant::now();
        for _ in 0..5 {
            let number = ledger.next().expect("room");
            ledger.sent(number, now);
        }
        for number in 0..4 {
            ledger.accepted(number, now);
        }
        ledger.refused();
        assert!(ledger.received(0, 7, now));
        assert!(!ledger.received(0, 7, now), "the same delivery again");
        assert!(ledger.received(1, 8, now));
        assert!(!ledger.received(1, 9, now), "under a second delivery id");
        assert!(ledger.received(2, 10, now));
        assert!(!ledger.received(77, 11, now), "never sent");
        assert_eq!(
            ledger.tally(),
            Tally {
                accepted: 4,
                refused: 1,
                delivered: 3,
                lost: 1,
                duplicated: 1,
                invented: 2,
            }
        );
    }

    #[test]
    fn latency_counts_from_the_intended_moment() {
        let ledger = Ledger::new(Duration::from_secs(0));
        let start = Instant::now() + Duration::from_millis(1);
        let number = ledger.next().expect("room");
        ledger.sent(number, start);
        let received = start + Duration::from_millis(12);
        ledger.received(number, 1, received);
        let histogram = ledger.latencies_us(start);
        assert_eq!(histogram.len(), 1);
        assert!(histogram.equivalent(histogram.max(), 12_000));
        assert_eq!(
            ledger
                .counts_between(start, received + Duration::from_millis(1))
                .1,
            1
        );
        assert_eq!(ledger.counts_between(start, received).1, 0);
    }
}

//! When a failed delivery is tried again.

use std::time::Duration;

/// The delays between attempts: with three delays there are four attempts in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Milliseconds to wait after the first, second, … failed attempt.
    pub delays_ms: Vec<u64>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            delays_ms: vec![60_000, 300_000, 900_000],
        }
    }
}

/// What the provider asks for after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAdvice {
    /// The subscription's schedule.
    Default,
    /// Not before this long; wins over the schedule.
    After(Duration),
    /// Another attempt cannot succeed.
    Never,
}

/// What happens to the delivery after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Another attempt after this long.
    RetryAfter(Duration),
    /// The schedule is exhausted, or the provider said never.
    GiveUp,
}

/// The longest wait that a provider or a receiver may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The scheduled delay is lengthened by up to this share, so that deliveries that failed together
/// do not return together.
const JITTER_SHARE: f64 = 0.1;

impl RetryPolicy {
    /// Attempts in all.
    #[must_use]
    pub fn attempts_max(&self) -> u32 {
        u32::try_from(self.delays_ms.len()).map_or(u32::MAX, |n| n.saturating_add(1))
    }

    /// The step after the failed attempt number `attempt` (1 for the first). `jitter` is uniform
    /// in `0.0..1.0`. Advice `After` replaces the scheduled delay but does not add attempts.
    #[must_use]
    pub fn after_failure(&self, attempt: u32, advice: RetryAdvice, jitter: f64) -> NextStep {
        let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        let Some(&delay_ms) = self.delays_ms.get(index) else {
            return NextStep::GiveUp;
        };
        match advice {
            RetryAdvice::Never => NextStep::GiveUp,
            RetryAdvice::After(wait) => NextStep::RetryAfter(wait.min(RETRY_AFTER_MAX)),
            RetryAdvice::Default => {
                let delay = Duration::from_millis(delay_ms);
                NextStep::RetryAfter(delay + delay.mul_f64(JITTER_SHARE * jitter.clamp(0.0, 1.0)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(attempt: u32, advice: RetryAdvice) -> NextStep {
        RetryPolicy::default().after_failure(attempt, advice, 0.0)
    }

    #[test]
    fn every_delay_of_the_schedule_is_used_and_no_more() {
        for (attempt, seconds) in [(1, 60), (2, 300), (3, 900)] {
            assert_eq!(
                step(attempt, RetryAdvice::Default),
                NextStep::RetryAfter(Duration::from_secs(seconds))
            );
        }
        assert_eq!(step(4, RetryAdvice::Default), NextStep::GiveUp);
        assert_eq!(RetryPolicy::default().attempts_max(), 4);
    }

    #[test]
    fn advice_wins_over_the_schedule_but_adds_no_attempt() {
        let hint = RetryAdvice::After(Duration::from_secs(7));
        assert_eq!(step(1, hint), NextStep::RetryAfter(Duration::from_secs(7)));
        assert_eq!(step(4, hint), NextStep::GiveUp);
        assert_eq!(step(1, RetryAdvice::Never), NextStep::GiveUp);
        assert_eq!(
            step(1, RetryAdvice::After(Duration::MAX)),
            NextStep::RetryAfter(RETRY_AFTER_MAX)
        );
    }

    #[test]
    fn jitter_lengthens_by_a_tenth_at_most() {
        let policy = RetryPolicy {
            delays_ms: vec![1_000],
        };
        assert_eq!(
            policy.after_failure(1, RetryAdvice::Default, 1.0),
            NextStep::RetryAfter(Duration::from_millis(1_100))
        );
    }
}

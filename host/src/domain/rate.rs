//! Rate limiting by the generic cell rate algorithm (GCRA, ITU-T I.371), without state of its own:
//! one number a key, the theoretical arrival time.

use super::clock::Timestamp;

/// So many a minute, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_us: i64,
    tolerance_us: i64,
}

/// The theoretical arrival time of the next request, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArrivalTime(i64);

impl ArrivalTime {
    /// Whether a key with this state is as good as one never seen.
    #[must_use]
    pub fn is_past(self, now: Timestamp) -> bool {
        self.0 <= now.0.saturating_mul(1_000)
    }

    /// The one so many microseconds beyond `now_us`.
    #[must_use]
    pub fn ahead(now_us: i64, ahead_us: i64) -> Self {
        Self(now_us.saturating_add(ahead_us.max(0)))
    }

    /// How many microseconds beyond `now_us` it is; 0 when it is past.
    #[must_use]
    pub fn ahead_of(self, now_us: i64) -> i64 {
        self.0.saturating_sub(now_us).max(0)
    }
}

impl Rate {
    /// `per_minute` on average, `burst` at once; both at least 1.
    #[must_use]
    pub fn per_minute(per_minute: u32, burst: u32) -> Self {
        Self::every(60_000_000 / i64::from(per_minute.max(1)), burst)
    }

    /// `per_second` on average, `burst` at once; both at least 1.
    #[must_use]
    pub fn per_second(per_second: u32, burst: u32) -> Self {
        Self::every(1_000_000 / i64::from(per_second.max(1)), burst)
    }

    fn every(interval_us: i64, burst: u32) -> Self {
        let interval_us = interval_us.max(1);
        Self {
            interval_us,
            tolerance_us: interval_us * i64::from(burst.max(1) - 1),
        }
    }

    /// Microseconds from one request to the next, at the steady rate.
    #[must_use]
    pub fn interval_us(self) -> i64 {
        self.interval_us
    }

    /// How far beyond now the arrival time may be, in microseconds.
    #[must_use]
    pub fn tolerance_us(self) -> i64 {
        self.tolerance_us
    }

    /// How long until one more may come, in milliseconds, rounded up, when the arrival time is so far
    /// beyond now.
    #[must_use]
    pub fn wait_ms(self, ahead_us: i64) -> u64 {
        let wait_us = ahead_us.saturating_sub(self.tolerance_us);
        u64::try_from(wait_us).unwrap_or(0).div_ceil(1_000)
    }

    /// Takes in as many of `wanted` as there is room for: how many, and the state after them.
    #[must_use]
    pub fn take(self, state: ArrivalTime, now_us: i64, wanted: usize) -> (usize, ArrivalTime) {
        let start_us = state.0.max(now_us);
        let spare_us = now_us + self.tolerance_us - start_us;
        if spare_us < 0 {
            return (0, state);
        }
        let room = spare_us / self.interval_us + 1;
        let granted = room.min(i64::try_from(wanted).unwrap_or(i64::MAX));
        let after = ArrivalTime(start_us.saturating_add(granted.saturating_mul(self.interval_us)));
        (usize::try_from(granted).unwrap_or(0), after)
    }

    /// How many requests may come now, at most `at_most`; or the wait in milliseconds, rounded up.
    ///
    /// # Errors
    /// The wait, when not even one may come.
    pub fn room(self, state: ArrivalTime, now: Timestamp, at_most: usize) -> Result<usize, u64> {
        let now_us = now.0.saturating_mul(1_000);
        let spare_us = now_us + self.tolerance_us - state.0.max(now_us);
        if spare_us < 0 {
            return Err(u64::try_from(-spare_us).unwrap_or(0).div_ceil(1_000));
        }
        let room = usize::try_from(spare_us / self.interval_us + 1).unwrap_or(usize::MAX);
        Ok(room.min(at_most))
    }

    /// Books one request, whether there was room for it or not: the state after it.
    #[must_use]
    pub fn book(self, state: ArrivalTime, now: Timestamp) -> ArrivalTime {
        ArrivalTime(state.0.max(now.0.saturating_mul(1_000)) + self.interval_us)
    }

    /// Takes one request in: the state after it, or the wait in milliseconds, rounded up.
    ///
    /// # Errors
    /// The wait, when the request comes too early. The state stays as it was.
    pub fn admit(self, state: ArrivalTime, now: Timestamp) -> Result<ArrivalTime, u64> {
        self.room(state, now, 1)?;
        Ok(self.book(state, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_steady_rate() {
        let rate = Rate::per_minute(60, 3);
        let now = Timestamp(1_000_000);
        let mut state = ArrivalTime::default();
        for _ in 0..3 {
            state = rate.admit(state, now).expect("within the burst");
        }
        assert_eq!(rate.admit(state, now), Err(1_000));
        let later = Timestamp(now.0 + 999);
        assert_eq!(rate.admit(state, later), Err(1));
        let later = Timestamp(now.0 + 1_000);
        state = rate.admit(state, later).expect("one a second");
        assert_eq!(rate.admit(state, later), Err(1_000));
        assert!(!state.is_past(later));
        assert!(state.is_past(Timestamp(later.0 + 60_000)));
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let rate = Rate::per_minute(60, 2);
        let mut state = rate
            .admit(ArrivalTime::default(), Timestamp(0))
            .expect("the first");
        let late = Timestamp(3_600_000);
        for _ in 0..2 {
            state = rate.admit(state, late).expect("a burst");
        }
        assert!(rate.admit(state, late).is_err());
    }

    #[test]
    fn the_room_is_what_is_admitted() {
        let rate = Rate::per_second(10, 5);
        let mut state = ArrivalTime::default();
        for step in 0..200_i64 {
            let now = Timestamp(1_000 + step * 37);
            let room = rate.room(state, now, 100).unwrap_or(0);
            let mut admitted = 0;
            while let Ok(next) = rate.admit(state, now) {
                assert_eq!(next, rate.book(state, now));
                state = next;
                admitted += 1;
                if admitted == 3 {
                    break;
                }
            }
            assert_eq!(admitted, room.min(3), "{step}");
        }
        assert_eq!(rate.room(ArrivalTime::default(), Timestamp(9), 2), Ok(2));
        state = rate.book(state, Timestamp(0));
        assert!(rate.room(state, Timestamp(0), 9).is_err());
    }
}

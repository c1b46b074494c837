//! What one address may send to one source.
//!
//! In process only: with several gateways each one counts for itself. The memory is bounded; when
//! too many addresses send at once, those that are new share one allowance a source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use crate::domain::clock::Timestamp;
use crate::domain::id::SourceId;
use crate::domain::rate::{ArrivalTime, Rate};

const KEYS_MAX: usize = 50_000;
/// Names that one address may guess.
const UNKNOWN_PER_MINUTE: u32 = 60;

type Key = (Option<SourceId>, IpAddr);

/// The state of every address that sent lately.
#[derive(Default)]
pub struct Limiter {
    states: Mutex<HashMap<Key, ArrivalTime>>,
}

impl Limiter {
    /// Takes one webhook in, or says how many milliseconds to wait.
    ///
    /// # Errors
    /// The wait.
    pub fn admit(
        &self,
        source: SourceId,
        rate: Rate,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<(), u64> {
        self.take(Some(source), rate, from, now)
    }

    /// The same for a name that is no source's.
    ///
    /// # Errors
    /// The wait.
    pub fn admit_unknown(&self, from: IpAddr, now: Timestamp) -> Result<(), u64> {
        let rate = Rate::per_minute(UNKNOWN_PER_MINUTE, UNKNOWN_PER_MINUTE);
        self.take(None, rate, from, now)
    }

    fn take(
        &self,
        source: Option<SourceId>,
        rate: Rate,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<(), u64> {
        let mut key = (source, network(from));
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if states.len() >= KEYS_MAX && !states.contains_key(&key) {
            states.retain(|_, state| !state.is_past(now));
            if states.len() >= KEYS_MAX {
                key.1 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            }
        }
        let state = states.get(&key).copied().unwrap_or_default();
        states.insert(key, rate.admit(state, now)?);
        Ok(())
    }
}

/// Whoever has one IPv6 address has the whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::from(u64::MAX) << 64;
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::IdGenerator;

    #[test]
    fn addresses_and_sources_are_apart_and_a_network_is_one() {
        let limiter = Limiter::default();
        let now = Timestamp(1_000_000);
        let ids = IdGenerator::default();
        let (a, b): (SourceId, SourceId) = (ids.next(now, || 1), ids.next(now, || 1));
        let rate = Rate::per_minute(60, 1);
        let admit = |source, from: &str| {
            limiter.admit(source, rate, from.parse().expect("an address"), now)
        };
        assert_eq!(admit(a, "192.0.2.1"), Ok(()));
        assert_eq!(admit(a, "192.0.2.1"), Err(1_000));
        assert_eq!(admit(a, "::ffff:192.0.2.1"), Err(1_000), "the same address");
        assert_eq!(admit(a, "192.0.2.2"), Ok(()));
        assert_eq!(admit(b, "192.0.2.1"), Ok(()));
        assert_eq!(admit(a, "2001:db8::1"), Ok(()));
        assert_eq!(admit(a, "2001:db8::ffff:2"), Err(1_000));
        assert_eq!(admit(a, "2001:db8:0:1::1"), Ok(()));
    }

    #[test]
    fn a_flood_of_addresses_does_not_grow_the_memory() {
        let limiter = Limiter::default();
        let now = Timestamp(1_000_000);
        let source: SourceId = IdGenerator::default().next(now, || 1);
        let rate = Rate::per_minute(1, 1);
        let refused = (0..60_000_u32)
            .filter(|number| {
                let from = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
                limiter.admit(source, rate, from, now).is_err()
            })
            .count();
        let kept = limiter.states.lock().expect("lock").len();
        assert!(kept <= KEYS_MAX + 1, "{kept}");
        assert_eq!(refused, 60_000 - kept);
    }
}

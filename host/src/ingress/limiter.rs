//! What one address may send to one source.
//!
//! Counted where `coord` counts: over all gateways, or in this process alone. When too many
//! addresses send at once, those that are new share one allowance a source.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::coord::{Ask, Coord};
use crate::domain::id::SourceId;
use crate::domain::rate::Rate;

/// Names that one address may guess.
const UNKNOWN_PER_MINUTE: u32 = 60;

/// What every address sent lately.
pub struct Limiter {
    coord: Arc<dyn Coord>,
}

impl Limiter {
    /// Counts in `coord`.
    #[must_use]
    pub fn new(coord: Arc<dyn Coord>) -> Self {
        Self { coord }
    }

    /// Takes one webhook in, or says how many milliseconds to wait.
    ///
    /// # Errors
    /// The wait.
    pub async fn admit(&self, source: SourceId, rate: Rate, from: IpAddr) -> Result<(), u64> {
        self.take(format!("source/{source}"), rate, from).await
    }

    /// The same for a name that is no source's.
    ///
    /// # Errors
    /// The wait.
    pub async fn admit_unknown(&self, from: IpAddr) -> Result<(), u64> {
        let rate = Rate::per_minute(UNKNOWN_PER_MINUTE, UNKNOWN_PER_MINUTE);
        self.take("no-source".to_owned(), rate, from).await
    }

    async fn take(&self, family: String, rate: Rate, from: IpAddr) -> Result<(), u64> {
        let ask = Ask {
            key: format!("{family}/{}", network(from)),
            rate,
            wanted: 1,
            ahead_us: 0,
        };
        match self.coord.book(&[ask]).await.as_deref() {
            Ok([booked]) if booked.granted == 0 => Err(rate.wait_ms(booked.ahead_us).max(1)),
            // Whoever cannot count turns nobody away.
            _ => Ok(()),
        }
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
    use crate::coord::memory::Memory;
    use crate::domain::clock::{Clock, Timestamp};
    use crate::domain::id::IdGenerator;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp(1_000_000)
        }
    }

    #[tokio::test]
    async fn addresses_and_sources_are_apart_and_a_network_is_one() {
        let limiter = Limiter::new(Arc::new(Memory::new(Arc::new(Still))));
        let ids = IdGenerator::default();
        let (a, b): (SourceId, SourceId) =
            (ids.next(Still.now(), || 1), ids.next(Still.now(), || 1));
        for (source, from, expected) in [
            (a, "192.0.2.1", Ok(())),
            (a, "192.0.2.1", Err(1_000)),
            // The same address.
            (a, "::ffff:192.0.2.1", Err(1_000)),
            (a, "192.0.2.2", Ok(())),
            (b, "192.0.2.1", Ok(())),
            (a, "2001:db8::1", Ok(())),
            (a, "2001:db8::ffff:2", Err(1_000)),
            (a, "2001:db8:0:1::1", Ok(())),
        ] {
            let address = from.parse().expect("an address");
            let admitted = limiter
                .admit(source, Rate::per_minute(60, 1), address)
                .await;
            assert_eq!(admitted, expected, "{from}");
        }
        for _ in 0..UNKNOWN_PER_MINUTE {
            let address = "192.0.2.1".parse().expect("an address");
            assert_eq!(limiter.admit_unknown(address).await, Ok(()));
        }
        let address = "192.0.2.1".parse().expect("an address");
        assert_eq!(limiter.admit_unknown(address).await, Err(1_000));
    }
}

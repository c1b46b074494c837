//! Prefixed identifiers, sortable by time: `evt_01J…`.
//!
//! The body is a ULID (<https://github.com/ulid/spec>): 48 bits of milliseconds, 80 random bits,
//! 26 characters of Crockford base 32. Within one [`IdGenerator`] identifiers strictly increase.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use ulid::Ulid;

use super::clock::Timestamp;

/// The text is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an identifier of the form {prefix}_ followed by 26 characters")]
pub struct ParseIdError {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// What stands before the underscore.
            pub const PREFIX: &'static str = $prefix;
        }

        impl From<Ulid> for $name {
            fn from(ulid: Ulid) -> Self {
                Self(ulid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; ulid::ULID_LEN];
                write!(f, concat!($prefix, "_{}"), self.0.array_to_str(&mut buffer))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|body| Ulid::from_string(body).ok())
                    .map(Self)
                    .ok_or(ParseIdError { prefix: $prefix })
            }
        }
    };
}

id!(
    /// An accepted event.
    EventId,
    "evt"
);
id!(
    /// One event on its way to one subscription; the receiver's idempotency key.
    DeliveryId,
    "dlv"
);
id!(
    /// A subscription.
    SubscriptionId,
    "sub"
);
id!(
    /// A connection.
    ConnectionId,
    "con"
);
id!(
    /// An inbound source.
    SourceId,
    "src"
);
id!(
    /// An inbound webhook.
    WebhookId,
    "whk"
);
id!(
    /// An API key.
    KeyId,
    "key"
);
id!(
    /// A replay.
    ReplayId,
    "rpl"
);
id!(
    /// A request to the API, for the log.
    RequestId,
    "req"
);
id!(
    /// Dead letters requeued or discarded in bulk.
    DeadLetterRunId,
    "dlr"
);
id!(
    /// A worker: one run of one gateway process.
    WorkerId,
    "wrk"
);

/// Hands out strictly increasing identifiers, also when the clock stands still or steps back.
#[derive(Debug)]
pub struct IdGenerator {
    last: Mutex<Ulid>,
}

impl Default for IdGenerator {
    fn default() -> Self {
        Self {
            last: Mutex::new(Ulid::nil()),
        }
    }
}

impl IdGenerator {
    /// The next identifier at `now`; `random` supplies the low bits when the millisecond is new.
    pub fn next<T: From<Ulid>>(&self, now: Timestamp, random: impl FnOnce() -> u128) -> T {
        let ms = u64::try_from(now.0).unwrap_or(0);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = if ms > last.timestamp_ms() {
            // The top random bit stays clear so that increments within the millisecond have room.
            Ulid::from_parts(ms, random() & ((1 << 79) - 1))
        } else {
            Ulid(last.0.saturating_add(1))
        };
        *last = fresh;
        T::from(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_increase_when_the_clock_stands_still_or_steps_back() {
        let ids = IdGenerator::default();
        let a: EventId = ids.next(Timestamp(1_000), || 7);
        let b: EventId = ids.next(Timestamp(1_000), || 3);
        let c: EventId = ids.next(Timestamp(900), || 1);
        let d: EventId = ids.next(Timestamp(1_001), || 0);
        assert!(a < b && b < c && c < d);
    }

    #[test]
    fn text_round_trips_and_refuses_another_kind() {
        let id: EventId = IdGenerator::default().next(Timestamp(1), || 42);
        assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
        assert!(id.to_string().parse::<DeliveryId>().is_err());
        assert!("evt_".parse::<EventId>().is_err());
    }
}

//! Times as text.

use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};

const MILLISECONDS: EncodedConfig = Config::DEFAULT
    .set_time_precision(TimePrecision::Second {
        decimal_digits: std::num::NonZero::new(3),
    })
    .encode();

/// RFC 3339 in UTC with milliseconds, `2026-01-31T08:00:00.000Z`, of milliseconds since the Unix
/// epoch. `None` outside the years 0 to 9999.
pub fn rfc3339_of_unix_ms(unix_ms: i64) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000).ok()?;
    if !(0..=9_999).contains(&at.year()) {
        return None;
    }
    at.format(&Iso8601::<MILLISECONDS>).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds() {
        let check = |ms: i64, expected: Option<&str>| {
            assert_eq!(rfc3339_of_unix_ms(ms).as_deref(), expected, "{ms}");
        };
        check(1_700_000_000_123, Some("2023-11-14T22:13:20.123Z"));
        check(0, Some("1970-01-01T00:00:00.000Z"));
        check(-1, Some("1969-12-31T23:59:59.999Z"));
        check(i64::MAX, None);
    }
}

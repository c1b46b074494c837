//! Where a span stands, as W3C Trace Context writes it (<https://www.w3.org/TR/trace-context/>):
//! `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.

use std::fmt;
use std::str::FromStr;

/// The flag "sampled", of which others are preserved nowhere.
const SAMPLED: u8 = 1;

/// A span that others continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Its trace; never 0.
    pub trace: u128,
    /// The span itself; never 0.
    pub span: u64,
    /// Whether whoever began the trace records it.
    pub sampled: bool,
}

/// The text is no `traceparent` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct ParseTraceParentError;

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled) * SAMPLED;
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

impl FromStr for TraceParent {
    type Err = ParseTraceParentError;

    /// Any version but `ff`; what a later one adds at the end is left aside, as section 4.3 of the
    /// recommendation asks.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut fields = text.splitn(5, '-');
        let mut field = |digits: usize| {
            fields
                .next()
                .filter(|field| field.len() == digits)
                // `from_str_radix` takes signs and capitals, which the header may not have.
                .filter(|field| {
                    field
                        .bytes()
                        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                })
                .and_then(|field| u128::from_str_radix(field, 16).ok())
                .ok_or(ParseTraceParentError)
        };
        let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let more = fields.next().is_some();
        let span = u64::try_from(span).map_err(|_| ParseTraceParentError)?;
        if version == 0xff || (version == 0 && more) || trace == 0 || span == 0 {
            return Err(ParseTraceParentError);
        }
        Ok(Self {
            trace,
            span,
            sampled: flags & u128::from(SAMPLED) != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_round_trips() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed: TraceParent = text.parse().expect("valid");
        assert_eq!(parsed.span, 0x00f0_67aa_0ba9_02b7);
        assert!(parsed.sampled);
        assert_eq!(parsed.to_string(), text);
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert_eq!(text.parse::<TraceParent>().map(|it| it.sampled), Ok(false));
    }

    #[test]
    fn what_is_no_header_is_refused_and_later_versions_are_read() {
        let check = |text: &str, taken: bool| {
            assert_eq!(text.parse::<TraceParent>().is_ok(), taken, "{text:?}");
        };
        check("", false);
        check("00-0-0-0", false);
        check(
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            false,
        );
        check(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            false,
        );
        check(
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            false,
        );
        check(
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            false,
        );
        check(
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            false,
        );
        check(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            false,
        );
        check(
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            true,
        );
        check(
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09",
            true,
        );
    }
}

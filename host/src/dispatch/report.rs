//! What a call's report means: for the log, for the delivery, for the destination.

use crate::domain::circuit::Verdict;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Attempt;
use crate::domain::retry::RetryAdvice;
use crate::plugin::{CallFailure, CallReport, Receipt};

/// The attempt for the log.
pub(super) fn attempt(started_at: Timestamp, report: &CallReport<Receipt>) -> Attempt {
    let message = match &report.result {
        Ok(receipt) => receipt.summary.clone(),
        Err(failure) => failure.to_string(),
    };
    Attempt {
        number: 0,
        started_at,
        latency: report.elapsed,
        outcome: report.outcome(),
        http_status: report.http_status,
        provider_version: (!report.version.is_empty()).then(|| report.version.to_string()),
        message,
        logs: report.logs.clone(),
    }
}

/// What a failure advises.
pub(super) fn advice(failure: &CallFailure) -> RetryAdvice {
    match failure {
        CallFailure::Provider { retry, .. } => *retry,
        // Only an admin can mend it.
        CallFailure::Denied(_) => RetryAdvice::Never,
        CallFailure::Limit(_) | CallFailure::Trap(_) | CallFailure::Unavailable(_) => {
            RetryAdvice::Default
        }
    }
}

/// What the attempt says of the destination. What was refused by the host, or went wrong in the
/// guest, says nothing; any answer but those that ask to come back later shows that somebody is
/// there (RFC 9110, sections 15.5.9 and 15.6; RFC 6585, section 4).
pub(super) fn verdict(report: &CallReport<Receipt>) -> Verdict {
    let Err(failure) = &report.result else {
        return Verdict::Answered;
    };
    if matches!(failure, CallFailure::Denied(_)) {
        return Verdict::Unknown;
    }
    let busy = matches!(report.http_status, Some(408 | 429 | 500..));
    if report.unreachable || busy {
        return Verdict::Blamed {
            reason: failure.to_string(),
            not_before: match advice(failure) {
                RetryAdvice::After(wait) => Some(wait),
                RetryAdvice::Default | RetryAdvice::Never => None,
            },
        };
    }
    match (failure, report.http_status) {
        (CallFailure::Provider { .. }, Some(_)) => Verdict::Answered,
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn failed(failure: CallFailure, http_status: Option<u16>) -> CallReport<Receipt> {
        CallReport {
            http_status,
            ..CallReport::failed(failure)
        }
    }

    fn refused(retry: RetryAdvice) -> CallFailure {
        CallFailure::Provider {
            message: "no".to_owned(),
            retry,
        }
    }

    #[test]
    fn only_what_the_destination_does_is_held_against_it() {
        let limit = || CallFailure::Limit("the deadline".to_owned());
        let check = |failure: CallFailure, status: Option<u16>, unreachable: bool, blamed: bool| {
            let report = CallReport {
                unreachable,
                ..failed(failure, status)
            };
            let verdict = verdict(&report);
            assert_eq!(
                matches!(verdict, Verdict::Blamed { .. }),
                blamed,
                "{report:?}: {verdict:?}"
            );
        };
        for status in [408, 429, 500, 503, 599] {
            check(refused(RetryAdvice::Default), Some(status), false, true);
        }
        for status in [200, 302, 400, 401, 404, 410, 422] {
            check(refused(RetryAdvice::Default), Some(status), false, false);
        }
        check(refused(RetryAdvice::Default), None, true, true);
        check(refused(RetryAdvice::Default), None, false, false);
        check(limit(), None, true, true);
        check(limit(), None, false, false);
        check(
            CallFailure::Trap("unreachable".to_owned()),
            None,
            false,
            false,
        );
        check(
            CallFailure::Denied("a host".to_owned()),
            Some(503),
            true,
            false,
        );
        check(
            CallFailure::Unavailable("no provider".to_owned()),
            None,
            false,
            false,
        );
    }

    #[test]
    fn an_answer_shows_that_somebody_is_there_and_a_guests_fault_shows_nothing() {
        let of = |failure, status| verdict(&failed(failure, status));
        assert_eq!(
            of(refused(RetryAdvice::Never), Some(404)),
            Verdict::Answered
        );
        assert_eq!(of(refused(RetryAdvice::Never), None), Verdict::Unknown);
        assert_eq!(
            of(CallFailure::Trap(String::new()), Some(200)),
            Verdict::Unknown
        );
        let wait = Duration::from_secs(9);
        assert_eq!(
            of(refused(RetryAdvice::After(wait)), Some(429)),
            Verdict::Blamed {
                reason: "no".to_owned(),
                not_before: Some(wait)
            }
        );
    }
}

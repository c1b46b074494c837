//! The system of record.

use super::Finding;
use crate::config::Config;
use crate::domain::clock::{Clock as _, Timestamp};
use crate::store::sqlite::OpenError;
use crate::store::{Condition, Versions};
use crate::wire::{self, SystemClock};

/// Leases and schedules are times: clocks that differ by more deliver early or late.
const SKEW_MS_MAX: i64 = 1_000;

pub(super) async fn examine(config: &Config) -> Finding {
    match wire::examine_store(config).await {
        Ok(Some(condition)) => judge(&condition, SystemClock.now(), config.store.migrate_at_start),
        Ok(None) => {
            Finding::Fail("there is none yet; the first `hookport serve` creates it".to_owned())
        }
        Err(error) if matches!(error.downcast_ref(), Some(OpenError::InUse(_))) => {
            Finding::Ok("a running gateway has it: GET /api/v1/health has more".to_owned())
        }
        Err(error) => Finding::Fail(format!("{error:#}")),
    }
}

fn judge(condition: &Condition, now: Timestamp, migrates: bool) -> Finding {
    let server = &condition.server;
    let Versions {
        missing,
        unknown,
        contracted,
    } = condition.versions;
    if contracted {
        return Finding::Fail(format!(
            "{server}: a later version has taken away what this binary uses: use that version, or restore a backup"
        ));
    }
    if missing > 0 {
        let text = format!("{server}: {missing} migrations are missing");
        return if migrates {
            Finding::Warn(format!("{text}; the next start applies them"))
        } else {
            Finding::Fail(format!("{text}: run `hookport migrate`"))
        };
    }
    if let Some(lacking) = condition.lacking {
        return Finding::Fail(format!("{server}: this user may not {lacking}"));
    }
    if let Some(clock) = condition.clock {
        let skew_ms = clock.0.saturating_sub(now.0);
        if skew_ms.abs() > SKEW_MS_MAX {
            return Finding::Warn(format!(
                "{server}: its clock differs from this machine's by {skew_ms} ms: synchronise both (NTP)"
            ));
        }
    }
    if unknown > 0 {
        return Finding::Ok(format!(
            "{server}, of a later version ({unknown} migrations), which this binary can use"
        ));
    }
    Finding::Ok(format!("{server}, up to date"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_has_its_remedy() {
        let now = Timestamp(1_000_000);
        let current = Versions {
            missing: 0,
            unknown: 0,
            contracted: false,
        };
        let good = Condition {
            server: "PostgreSQL 15".to_owned(),
            versions: current,
            lacking: None,
            clock: Some(now),
        };
        let check = |condition: Condition, migrates, expected: &str| {
            let found = judge(&condition, now, migrates);
            assert!(found.detail().contains(expected), "{found:?}");
            found
        };
        let with = |versions| Condition {
            versions,
            ..good.clone()
        };
        let found = check(good.clone(), true, "up to date");
        assert!(matches!(found, Finding::Ok(_)));
        let old = with(Versions {
            missing: 2,
            ..current
        });
        let found = check(old.clone(), true, "next start");
        assert!(matches!(found, Finding::Warn(_)));
        let found = check(old, false, "hookport migrate");
        assert!(matches!(found, Finding::Fail(_)));
        let later = Versions {
            unknown: 1,
            ..current
        };
        let found = check(with(later), true, "can use");
        assert!(matches!(found, Finding::Ok(_)));
        let contracted = Versions {
            contracted: true,
            ..later
        };
        let found = check(with(contracted), true, "restore a backup");
        assert!(matches!(found, Finding::Fail(_)));
        let skewed = Condition {
            clock: Some(Timestamp(now.0 - 5_000)),
            ..good.clone()
        };
        let found = check(skewed, true, "-5000 ms");
        assert!(matches!(found, Finding::Warn(_)));
        let poor = Condition {
            lacking: Some("write to the tables"),
            ..good
        };
        let found = check(poor, true, "write to the tables");
        assert!(matches!(found, Finding::Fail(_)));
    }
}

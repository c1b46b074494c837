//! What the machine gives a process.

use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::config::Config;
use crate::wire;

/// Beside deliveries: the API's callers, the database, the components.
const FILES_BESIDE: u64 = 1_024;

/// The pool reserves address space for every instance; where there is too little, each call
/// allocates for itself.
pub(super) fn sandbox(config: &Config) -> Finding {
    match wire::sandbox(config) {
        Ok(sandbox) if sandbox.is_pooled() => {
            Finding::Ok(format!("a pool of {} instances", sandbox.slots()))
        }
        Ok(_) => {
            let limit = getrlimit(Resource::As).current;
            let limit = limit.map_or("unlimited".to_owned(), |bytes| {
                format!("{} GiB", bytes >> 30)
            });
            Finding::Warn(format!(
                "the pool of instances does not fit into the address space ({limit}), so that calls are slower: raise LimitAS or vm.overcommit_memory, or lower concurrency or limits.memory_bytes_max"
            ))
        }
        Err(error) => Finding::Fail(format!("{error:#}")),
    }
}

/// Every delivery under way may have a connection of its own, and idle ones are kept.
pub(super) fn open_files(config: &Config) -> Finding {
    // The gateway raises the soft limit up to the hard one.
    match getrlimit(Resource::Nofile).maximum {
        None => Finding::Ok("unlimited".to_owned()),
        Some(limit) => enough(limit, u64::from(config.concurrency)),
    }
}

fn enough(limit: u64, concurrency: u64) -> Finding {
    let needed = concurrency * 2 + FILES_BESIDE;
    if limit < needed {
        Finding::Warn(format!(
            "{limit} at most, and {needed} may be needed: raise LimitNOFILE (systemd) or ulimit -Hn"
        ))
    } else {
        Finding::Ok(format!("{limit} at most"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_measured_by_what_may_be_under_way() {
        assert!(matches!(enough(1_024, 512), Finding::Warn(_)));
        assert!(matches!(enough(2_048, 512), Finding::Ok(_)));
        assert!(matches!(enough(2_048, 513), Finding::Warn(_)));
    }
}

//! A circuit as other processes read it.
//!
//! No cell: closed, and no failure since the last answer. A cell of another state of its
//! subscription (`changedAt`) is as good as none.

use serde::{Deserialize, Serialize};

use crate::domain::circuit::{Circuit, OpenCircuit};
use crate::domain::clock::Timestamp;
use crate::domain::id::SubscriptionId;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cell {
    changed_at: i64,
    failures: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<Open>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probing_until: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Open {
    since: i64,
    reason: String,
    probes: u32,
    next_probe_at: i64,
}

/// The cell of a circuit; `None` when nothing has to be said of it.
pub(super) fn write(circuit: &Circuit, changed_at: Timestamp) -> Option<String> {
    if circuit.is_pristine() {
        return None;
    }
    let cell = Cell {
        changed_at: changed_at.0,
        failures: circuit.failures(),
        open: circuit.open().map(|open| Open {
            since: open.since.0,
            reason: open.reason.clone(),
            probes: open.probes,
            next_probe_at: open.next_probe_at.0,
        }),
        probing_until: circuit.probing_until().map(|until| until.0),
    };
    serde_json::to_string(&cell).ok()
}

/// The circuit of a cell, and of which state of its subscription it is. `None`: not readable.
pub(super) fn read(text: &str, subscription: SubscriptionId) -> Option<(Circuit, Timestamp)> {
    let cell: Cell = serde_json::from_str(text).ok()?;
    let open = cell.open.map(|open| OpenCircuit {
        subscription,
        since: Timestamp(open.since),
        reason: open.reason,
        probes: open.probes,
        next_probe_at: Timestamp(open.next_probe_at),
    });
    let probing_until = cell.probing_until.map(Timestamp);
    Some((
        Circuit::from_parts(cell.failures, open, probing_until),
        Timestamp(cell.changed_at),
    ))
}

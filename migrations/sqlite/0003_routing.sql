-- State 6 of a delivery: filtered, its subscription's filter did not want the event.

-- How fast a destination is called: JSON; NULL: the defaults.
ALTER TABLE subscriptions ADD COLUMN flow TEXT;

-- What waits or is under way, a subscription at a time: a claim reaches the others without walking
-- past the backlog of one that is held back. Parked deliveries come first, with due_at NULL.
CREATE INDEX deliveries_lane ON deliveries (subscription_id, due_at) WHERE state <= 2;
DROP INDEX deliveries_parked;

-- Circuits that are open: their subscriptions are held back until a probe gets an answer.
CREATE TABLE circuits (
    subscription_id TEXT PRIMARY KEY,
    since INTEGER NOT NULL,
    reason TEXT NOT NULL,
    probes INTEGER NOT NULL,
    next_probe_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

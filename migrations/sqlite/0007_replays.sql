-- Events of the past, delivered again. state: running, done, cancelled; scope: failed, all.
CREATE TABLE replays (
    id TEXT PRIMARY KEY,
    requested_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    scope TEXT NOT NULL,
    event_id TEXT,
    event_type TEXT,
    correlation_key TEXT,
    received_from INTEGER,
    received_until INTEGER,
    subscription_id TEXT,
    state TEXT NOT NULL,
    cursor TEXT,
    events INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

ALTER TABLE deliveries ADD COLUMN replay_id TEXT;
CREATE INDEX deliveries_replay ON deliveries (replay_id) WHERE replay_id IS NOT NULL;

-- Events of the past, delivered again. state: running, done, cancelled; scope: failed, all.
CREATE TABLE replays (
    id TEXT COLLATE "C" PRIMARY KEY,
    requested_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    scope TEXT NOT NULL,
    event_id TEXT,
    event_type TEXT,
    correlation_key TEXT,
    received_from BIGINT,
    received_until BIGINT,
    subscription_id TEXT,
    state TEXT NOT NULL,
    cursor TEXT,
    events BIGINT NOT NULL,
    deliveries BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

ALTER TABLE deliveries ADD COLUMN replay_id TEXT COLLATE "C";
CREATE INDEX deliveries_replay ON deliveries (replay_id) WHERE replay_id IS NOT NULL;

CREATE TABLE sources (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    component TEXT NOT NULL,
    config TEXT NOT NULL,
    config_version INTEGER NOT NULL,
    verification TEXT NOT NULL,
    rate_per_minute INTEGER NOT NULL,
    enabled INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- Webhooks that were verified. state: 0 accepted, 1 duplicate, 2 ignored, 3 failed. The body of a
-- duplicate is not kept: the first one has it.
CREATE TABLE inbound_webhooks (
    id TEXT PRIMARY KEY,
    source_id TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    remote_address TEXT NOT NULL,
    query TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    state INTEGER NOT NULL,
    reason TEXT,
    event_ids TEXT NOT NULL
) STRICT;
CREATE INDEX inbound_webhooks_source ON inbound_webhooks (source_id, id);
CREATE INDEX inbound_webhooks_age ON inbound_webhooks (received_at);

-- What happened once is accepted once: `source:external-id` or `source:payload:sha256`.
CREATE TABLE inbound_keys (
    key TEXT PRIMARY KEY,
    event_id TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX inbound_keys_age ON inbound_keys (created_at);

-- Webhooks that were not verified: the last few of each source, without their bodies.
CREATE TABLE source_rejections (
    source_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    remote_address TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX source_rejections_source ON source_rejections (source_id);

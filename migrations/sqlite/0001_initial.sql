-- Times are milliseconds since the Unix epoch. Identifiers are time-ordered text, so that inserts
-- append to their b-trees.

CREATE TABLE catalog (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO catalog VALUES (1, 0);

CREATE TABLE event_types (
    name TEXT PRIMARY KEY,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    payload_schema TEXT,
    example TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE connections (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    provider TEXT NOT NULL,
    document TEXT NOT NULL,
    document_version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE subscriptions (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    events TEXT NOT NULL,
    provider TEXT NOT NULL,
    config TEXT NOT NULL,
    config_version INTEGER NOT NULL,
    connection_id TEXT REFERENCES connections (id),
    system_filter TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    disabled_reason TEXT,
    paused INTEGER NOT NULL,
    ordered INTEGER NOT NULL,
    retry_delays_ms TEXT,
    timeout_ms INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE grants (
    provider TEXT PRIMARY KEY,
    granted TEXT NOT NULL,
    asked TEXT NOT NULL,
    digest TEXT NOT NULL,
    granted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE TABLE events (
    id TEXT PRIMARY KEY,
    event_type TEXT NOT NULL,
    payload TEXT NOT NULL,
    occurred_at INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    correlation_key TEXT,
    system_ids TEXT NOT NULL
) STRICT;
CREATE INDEX events_correlation ON events (correlation_key, id) WHERE correlation_key IS NOT NULL;

CREATE TABLE idempotency_keys (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash BLOB NOT NULL,
    event_ids TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- state: 0 pending, 1 retrying, 2 in flight, 3 success, 4 failed, 5 cancelled; up to 2 there is
-- work left. due_at: when it can next be claimed, which for a delivery in flight is when its
-- lease ends; NULL when there is nothing to do or the subscription is paused. Only rows with work
-- left are in the claim index, so that its size is the backlog's and not the history's.
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    subscription_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    state INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    attempts_total INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER,
    token INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    ordering_key TEXT,
    external_id TEXT,
    last_error TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX deliveries_due ON deliveries (due_at, subscription_id) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_event ON deliveries (event_id);
CREATE INDEX deliveries_subscription ON deliveries (subscription_id, id);
CREATE INDEX deliveries_failed ON deliveries (id) WHERE state = 4;
CREATE INDEX deliveries_parked ON deliveries (subscription_id) WHERE state <= 2 AND due_at IS NULL;
CREATE INDEX deliveries_ordering ON deliveries (ordering_key, id)
    WHERE ordering_key IS NOT NULL AND state <= 2;

CREATE TABLE attempts (
    delivery_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    latency_us INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    http_status INTEGER,
    provider_version TEXT,
    message TEXT NOT NULL,
    logs TEXT,
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE external_ids (
    subscription_id TEXT NOT NULL,
    correlation_key TEXT NOT NULL,
    external_id TEXT NOT NULL,
    PRIMARY KEY (subscription_id, correlation_key)
) STRICT, WITHOUT ROWID;

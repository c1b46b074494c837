-- Times are milliseconds since the Unix epoch. Identifiers are time-ordered text, so that inserts
-- append to their b-trees.

CREATE TABLE catalog (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    epoch BIGINT NOT NULL
);
INSERT INTO catalog VALUES (1, 0);

CREATE TABLE event_types (
    name TEXT COLLATE "C" PRIMARY KEY,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    payload_schema TEXT,
    example TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    category TEXT NOT NULL DEFAULT '',
    transform TEXT,
    -- whose catalogue the type belongs to
    plugin TEXT,
    -- no longer in that catalogue, and kept because subscriptions name it
    retired BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE connections (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    document TEXT NOT NULL,
    document_version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE subscriptions (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    events TEXT NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    config TEXT NOT NULL,
    config_version BIGINT NOT NULL,
    connection_id TEXT COLLATE "C" REFERENCES connections (id),
    system_filter TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    disabled_reason TEXT,
    paused BOOLEAN NOT NULL,
    ordered BOOLEAN NOT NULL,
    retry_delays_ms TEXT,
    timeout_ms BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    -- jq text, checked when it was written
    filter TEXT,
    transform TEXT,
    -- how fast a destination is called: JSON; NULL: the defaults
    flow TEXT
);

CREATE TABLE grants (
    provider TEXT COLLATE "C" PRIMARY KEY,
    granted TEXT NOT NULL,
    asked TEXT NOT NULL,
    digest TEXT NOT NULL,
    granted_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    role TEXT NOT NULL,
    hash BYTEA NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE events (
    id TEXT COLLATE "C" PRIMARY KEY,
    event_type TEXT COLLATE "C" NOT NULL,
    payload TEXT NOT NULL,
    occurred_at BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    correlation_key TEXT COLLATE "C",
    system_ids TEXT NOT NULL
);
CREATE INDEX events_correlation ON events (correlation_key, id) WHERE correlation_key IS NOT NULL;

CREATE TABLE idempotency_keys (
    scope TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    body_hash BYTEA NOT NULL,
    event_ids TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- state: 0 pending, 1 retrying, 2 in flight, 3 success, 4 failed, 5 cancelled,
-- 6 filtered; up to 2 there is work left. due_at: when it can next be claimed, which for a delivery in flight is when its
-- lease ends; NULL when there is nothing to do or the subscription is paused. Only rows with work
-- left are in the claim index, so that its size is the backlog's and not the history's.
CREATE TABLE deliveries (
    id TEXT COLLATE "C" PRIMARY KEY,
    event_id TEXT COLLATE "C" NOT NULL,
    event_type TEXT COLLATE "C" NOT NULL,
    subscription_id TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    state BIGINT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    attempts_total BIGINT NOT NULL DEFAULT 0,
    due_at BIGINT,
    token BIGINT NOT NULL DEFAULT 0,
    worker TEXT COLLATE "C",
    ordering_key TEXT COLLATE "C",
    external_id TEXT,
    last_error TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX deliveries_due ON deliveries (due_at, subscription_id) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_event ON deliveries (event_id);
CREATE INDEX deliveries_subscription ON deliveries (subscription_id, id);
CREATE INDEX deliveries_failed ON deliveries (id) WHERE state = 4;
CREATE INDEX deliveries_ordering ON deliveries (ordering_key, id)
    WHERE ordering_key IS NOT NULL AND state <= 2;

CREATE TABLE attempts (
    delivery_id TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    latency_us BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    http_status BIGINT,
    provider_version TEXT,
    message TEXT NOT NULL,
    logs TEXT,
    PRIMARY KEY (delivery_id, number)
);

CREATE TABLE external_ids (
    subscription_id TEXT COLLATE "C" NOT NULL,
    correlation_key TEXT COLLATE "C" NOT NULL,
    external_id TEXT NOT NULL,
    PRIMARY KEY (subscription_id, correlation_key)
);

CREATE TABLE sources (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    component TEXT COLLATE "C" NOT NULL,
    config TEXT NOT NULL,
    config_version BIGINT NOT NULL,
    verification TEXT NOT NULL,
    rate_per_minute BIGINT NOT NULL,
    enabled BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Webhooks that were verified. state: 0 accepted, 1 duplicate, 2 ignored, 3 failed. The body of a
-- duplicate is not kept: the first one has it.
CREATE TABLE inbound_webhooks (
    id TEXT COLLATE "C" PRIMARY KEY,
    source_id TEXT COLLATE "C" NOT NULL,
    received_at BIGINT NOT NULL,
    remote_address TEXT NOT NULL,
    query TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BYTEA NOT NULL,
    state BIGINT NOT NULL,
    reason TEXT,
    event_ids TEXT NOT NULL
);
CREATE INDEX inbound_webhooks_source ON inbound_webhooks (source_id, id);
CREATE INDEX inbound_webhooks_age ON inbound_webhooks (received_at);

-- What happened once is accepted once: `source:external-id` or `source:payload:sha256`.
CREATE TABLE inbound_keys (
    key TEXT COLLATE "C" PRIMARY KEY,
    event_id TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX inbound_keys_age ON inbound_keys (created_at);

-- Webhooks that were not verified: the last few of each source, without their bodies.
CREATE TABLE source_rejections (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    remote_address TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX source_rejections_source ON source_rejections (source_id, number);

-- What waits or is under way, a subscription at a time: a claim reaches the others without walking
-- past the backlog of one that is held back. Parked deliveries come first, with due_at NULL.
CREATE INDEX deliveries_lane ON deliveries (subscription_id, due_at) WHERE state <= 2;

-- Circuits that are open: their subscriptions are held back until a probe gets an answer.
CREATE TABLE circuits (
    subscription_id TEXT COLLATE "C" PRIMARY KEY,
    since BIGINT NOT NULL,
    reason TEXT NOT NULL,
    probes BIGINT NOT NULL,
    next_probe_at BIGINT NOT NULL
);

-- Processes that claim: one that was not seen for a while has lost its leases.
CREATE TABLE workers (
    id TEXT COLLATE "C" PRIMARY KEY,
    seen_at BIGINT NOT NULL
);

-- Every attempt updates its delivery: dead rows are cleared away early, and updates find room on
-- their own page.
ALTER TABLE deliveries SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

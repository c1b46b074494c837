-- Processing jobs (docs/adr/0015): a finished one is an attempt, an open one is a delivery with work left.
-- trigger: what made the delivery due: 0 ingest, 1 retry, 2 replay, 3 sweep, 4 manual. queued_at: when it was due;
-- NULL: since it was created.
ALTER TABLE deliveries ADD COLUMN trigger BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN queued_at BIGINT;
-- State 7: discarded, a dead letter that someone decided to leave undelivered; updated_at says when.
ALTER TABLE deliveries ADD COLUMN discarded_by TEXT;
ALTER TABLE deliveries ADD COLUMN discard_reason TEXT;
-- queue: 0 the store, 1 process, 2 replay. All NULL in attempts made before these columns were there.
ALTER TABLE attempts ADD COLUMN trigger BIGINT;
ALTER TABLE attempts ADD COLUMN queue BIGINT;
ALTER TABLE attempts ADD COLUMN worker TEXT COLLATE "C";
ALTER TABLE attempts ADD COLUMN queued_at BIGINT;

-- None of these has an entry for a delivery that succeeds at its first attempt.
CREATE INDEX deliveries_dead ON deliveries (updated_at, id) WHERE state = 4;
CREATE INDEX deliveries_dropped ON deliveries (id) WHERE state >= 5;
CREATE INDEX attempts_triggered ON attempts (trigger, delivery_id, number) WHERE trigger > 0;
CREATE INDEX attempts_failed ON attempts (delivery_id, number) WHERE outcome <> 'success';

-- Dead letters requeued or discarded in bulk. action: requeue, discard; state: running, done, cancelled. The cursor
-- is the last dead letter gone through, from the newest failure to the oldest.
CREATE TABLE dead_letter_runs (
    id TEXT COLLATE "C" PRIMARY KEY,
    action TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    filter TEXT NOT NULL,
    state TEXT NOT NULL,
    cursor_at BIGINT,
    cursor_id TEXT COLLATE "C",
    changed BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- What one process at a time does for all.
CREATE TABLE duties (
    name TEXT COLLATE "C" PRIMARY KEY,
    worker TEXT COLLATE "C" NOT NULL,
    held_until BIGINT NOT NULL
);

-- Compared with identifiers.
ALTER TABLE replays ALTER COLUMN cursor TYPE TEXT COLLATE "C";
ALTER TABLE replays ALTER COLUMN event_id TYPE TEXT COLLATE "C";

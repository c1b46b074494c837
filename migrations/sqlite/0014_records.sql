-- Processing jobs (docs/adr/0015): a finished one is an attempt, an open one is a delivery with work left.
-- trigger: what made the delivery due: 0 ingest, 1 retry, 2 replay, 3 sweep, 4 manual. queued_at: when it was due;
-- NULL: since it was created.
ALTER TABLE deliveries ADD COLUMN trigger INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN queued_at INTEGER;
-- State 7: discarded, a dead letter that someone decided to leave undelivered; updated_at says when.
ALTER TABLE deliveries ADD COLUMN discarded_by TEXT;
ALTER TABLE deliveries ADD COLUMN discard_reason TEXT;
-- queue: 0 the store, 1 process, 2 replay. All NULL in attempts made before these columns were there.
ALTER TABLE attempts ADD COLUMN trigger INTEGER;
ALTER TABLE attempts ADD COLUMN queue INTEGER;
ALTER TABLE attempts ADD COLUMN worker TEXT;
ALTER TABLE attempts ADD COLUMN queued_at INTEGER;

-- None of these has an entry for a delivery that succeeds at its first attempt.
CREATE INDEX deliveries_dead ON deliveries (updated_at, id) WHERE state = 4;
CREATE INDEX deliveries_dropped ON deliveries (id) WHERE state >= 5;
CREATE INDEX attempts_triggered ON attempts (trigger, delivery_id, number) WHERE trigger > 0;
CREATE INDEX attempts_failed ON attempts (delivery_id, number) WHERE outcome <> 'success';

-- Dead letters requeued or discarded in bulk. action: requeue, discard; state: running, done, cancelled. The cursor
-- is the last dead letter gone through, from the newest failure to the oldest.
CREATE TABLE dead_letter_runs (
    id TEXT PRIMARY KEY,
    action TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    filter TEXT NOT NULL,
    state TEXT NOT NULL,
    cursor_at INTEGER,
    cursor_id TEXT,
    changed INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- What one process at a time does for all.
CREATE TABLE duties (
    name TEXT PRIMARY KEY,
    worker TEXT NOT NULL,
    held_until INTEGER NOT NULL
) STRICT;

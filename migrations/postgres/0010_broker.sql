-- Who holds a delivery that has work left. NULL: the store alone, and claims find it. Else a broker
-- was told of it, whose message comes out at this time; one that has not come a while after it is
-- published anew, and 0 was never published. For a delivery in flight it is the end of the lease.
ALTER TABLE deliveries ADD COLUMN queued_for BIGINT;

-- What the store holds is in the claim index, what a broker holds in those of the sweep: each row
-- is in one of them. Replays apart, so that a long backlog of them does not hide the others.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (due_at, subscription_id)
    WHERE due_at IS NOT NULL AND queued_for IS NULL;
CREATE INDEX deliveries_queued ON deliveries (queued_for)
    WHERE queued_for IS NOT NULL AND due_at IS NOT NULL AND replay_id IS NULL;
CREATE INDEX deliveries_queued_replays ON deliveries (queued_for)
    WHERE queued_for IS NOT NULL AND due_at IS NOT NULL AND replay_id IS NOT NULL;

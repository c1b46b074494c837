-- For a broker in front of a shared store; here it stays NULL.
ALTER TABLE deliveries ADD COLUMN queued_for INTEGER;

-- External ids go with the last event of their correlation key.
CREATE INDEX external_ids_key ON external_ids (correlation_key);

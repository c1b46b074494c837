-- W3C traceparent of the span under which an event was accepted; NULL where nobody records it.
ALTER TABLE events ADD COLUMN trace_parent TEXT;

-- Programs are jq text, checked when they were written.
ALTER TABLE subscriptions ADD COLUMN filter TEXT;
ALTER TABLE subscriptions ADD COLUMN transform TEXT;

-- plugin: whose catalogue the type belongs to. retired: no longer in that catalogue, and kept
-- because subscriptions name it.
ALTER TABLE event_types ADD COLUMN category TEXT NOT NULL DEFAULT '';
ALTER TABLE event_types ADD COLUMN transform TEXT;
ALTER TABLE event_types ADD COLUMN plugin TEXT;
ALTER TABLE event_types ADD COLUMN retired INTEGER NOT NULL DEFAULT 0;

-- Which keys a running process seals and opens with: a rotation waits for all of them.
CREATE TABLE vault_processes (
    id TEXT COLLATE "C" PRIMARY KEY,
    seals TEXT NOT NULL,
    opens TEXT NOT NULL,
    seen_at BIGINT NOT NULL
);

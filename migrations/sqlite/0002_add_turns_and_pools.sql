-- Why: engines that share a record take turns at what one of them can do for all, and pools are rebuilt by generations.

CREATE TABLE fm_turns (
    name   TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_pools (
    pool       TEXT NOT NULL PRIMARY KEY,
    generation INTEGER NOT NULL,
    server_id  TEXT NOT NULL,
    CONSTRAINT generation_counts_from_one CHECK (generation >= 1)
) STRICT, WITHOUT ROWID;

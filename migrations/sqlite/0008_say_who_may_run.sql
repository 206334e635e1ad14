-- Why: the release before can go on with a file that a newer one has opened.

-- Programs whose schema version is below it do not open this file. Written with every migration.
CREATE TABLE fm_schema (
    only_row      INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    readable_from INTEGER NOT NULL
) STRICT;

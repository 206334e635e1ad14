-- Why: changes of a context that an attempt stages while it runs, until the commit of its result merges them.

CREATE TABLE fm_context_patches (
    execution_id BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    task_number  INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    changes      TEXT NOT NULL,
    PRIMARY KEY (execution_id, task_number, attempt, sequence)
) STRICT;

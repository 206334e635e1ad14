-- Why: what running tasks say of themselves, progress and log lines, can be read later, and of attempts that were killed, too.

CREATE TABLE fm_progress (
    execution_id BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    task_number  INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    step_id      TEXT NOT NULL,
    percent      REAL NOT NULL,
    progress     TEXT NOT NULL,
    PRIMARY KEY (execution_id, task_number, at)
) STRICT, WITHOUT ROWID;
-- For progress_prune.
CREATE INDEX fm_progress_at ON fm_progress (at);

CREATE TABLE fm_task_logs (
    execution_id BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    task_number  INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    line         INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    step_id      TEXT NOT NULL,
    level        TEXT NOT NULL,
    message      TEXT NOT NULL,
    PRIMARY KEY (execution_id, task_number, attempt, line),
    CONSTRAINT lines_count_from_one CHECK (line >= 1)
) STRICT, WITHOUT ROWID;
-- For task_logs_prune.
CREATE INDEX fm_task_logs_at ON fm_task_logs (at);

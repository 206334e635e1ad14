-- Why: who works on the tasks of stateful handlers, and how far they are.

CREATE TABLE fm_jobs (
    execution_id      BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    task_number       INTEGER NOT NULL,
    attempt           INTEGER NOT NULL,
    status            TEXT NOT NULL,
    step_id           TEXT NOT NULL,
    handler_type      TEXT NOT NULL,
    worker_id         TEXT,
    created_at        INTEGER NOT NULL,
    claimed_at        INTEGER,
    started_at        INTEGER,
    completed_at      INTEGER,
    progress_percent  REAL,
    progress_message  TEXT,
    last_heartbeat_at INTEGER,
    checkpoint_id     TEXT,
    timeout_ms        INTEGER,
    max_retries       INTEGER,
    retry_count       INTEGER NOT NULL,
    error             TEXT,
    PRIMARY KEY (execution_id, task_number)
) STRICT;
CREATE INDEX fm_jobs_status ON fm_jobs (status, handler_type);
CREATE INDEX fm_jobs_heartbeat ON fm_jobs (last_heartbeat_at) WHERE status IN ('claimed', 'running');
-- For the engine, which looks after those that have not ended.
CREATE INDEX fm_jobs_open ON fm_jobs (execution_id, task_number) WHERE completed_at IS NULL;

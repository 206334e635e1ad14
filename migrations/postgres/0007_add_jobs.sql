-- Why: who works on the tasks of stateful handlers, and how far they are.

CREATE TABLE fm_jobs (
    execution_id      uuid NOT NULL,
    task_number       bigint NOT NULL,
    attempt           bigint NOT NULL,
    status            text NOT NULL,
    step_id           text NOT NULL,
    handler_type      text NOT NULL,
    worker_id         text,
    created_at        bigint NOT NULL,
    claimed_at        bigint,
    started_at        bigint,
    completed_at      bigint,
    progress_percent  double precision,
    progress_message  text,
    last_heartbeat_at bigint,
    checkpoint_id     text,
    timeout_ms        bigint,
    max_retries       bigint,
    retry_count       bigint NOT NULL,
    error             text,
    PRIMARY KEY (execution_id, task_number)
) WITH (fillfactor = 70);
CREATE INDEX fm_jobs_status ON fm_jobs (status, handler_type);
CREATE INDEX fm_jobs_heartbeat ON fm_jobs (last_heartbeat_at) WHERE status IN ('claimed', 'running');
-- For the engine, which looks after those that have not ended.
CREATE INDEX fm_jobs_open ON fm_jobs (execution_id, task_number) WHERE completed_at IS NULL;
-- For jobs_prune.
CREATE INDEX fm_jobs_completed ON fm_jobs (completed_at) WHERE completed_at IS NOT NULL;

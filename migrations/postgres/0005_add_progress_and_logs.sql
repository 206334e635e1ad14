-- Why: what running tasks say of themselves, progress and log lines, can be read later, and of attempts that were killed, too.

CREATE TABLE fm_progress (
    execution_id uuid NOT NULL,
    task_number  bigint NOT NULL,
    at           bigint NOT NULL,
    attempt      bigint NOT NULL,
    percent      double precision NOT NULL,
    step_id      text NOT NULL,
    progress     text NOT NULL,
    PRIMARY KEY (execution_id, task_number, at)
);
-- For progress_prune.
CREATE INDEX fm_progress_at ON fm_progress (at);

CREATE TABLE fm_task_logs (
    execution_id uuid NOT NULL,
    task_number  bigint NOT NULL,
    attempt      bigint NOT NULL,
    line         bigint NOT NULL,
    at           bigint NOT NULL,
    step_id      text NOT NULL,
    level        text NOT NULL,
    message      text NOT NULL,
    PRIMARY KEY (execution_id, task_number, attempt, line),
    CONSTRAINT lines_count_from_one CHECK (line >= 1)
);
-- For task_logs_prune.
CREATE INDEX fm_task_logs_at ON fm_task_logs (at);

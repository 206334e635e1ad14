-- What is said of an older attempt, or of a job that has ended, changes nothing.
INSERT INTO fm_jobs (execution_id, task_number, attempt, status, step_id, handler_type, created_at, completed_at, timeout_ms,
    max_retries, retry_count, error)
SELECT unhex(value ->> 'execution'), value ->> 'task', value ->> 'attempt', value ->> 'status', value ->> 'step',
    value ->> 'handler', value ->> 'at', value ->> 'ended', value ->> 'timeout', value ->> 'retries', value ->> 'retry',
    value ->> 'error'
FROM json_each(?1)
-- Of an execution that was deleted meanwhile there is nothing to say.
WHERE EXISTS (SELECT 1 FROM fm_executions WHERE id = unhex(value ->> 'execution'))
ON CONFLICT (execution_id, task_number) DO UPDATE SET
    attempt = excluded.attempt,
    status = excluded.status,
    completed_at = excluded.completed_at,
    timeout_ms = coalesce(excluded.timeout_ms, fm_jobs.timeout_ms),
    max_retries = coalesce(excluded.max_retries, fm_jobs.max_retries),
    retry_count = excluded.retry_count,
    error = excluded.error,
    worker_id = CASE WHEN excluded.attempt = fm_jobs.attempt THEN fm_jobs.worker_id END,
    claimed_at = CASE WHEN excluded.attempt = fm_jobs.attempt THEN fm_jobs.claimed_at END,
    started_at = CASE WHEN excluded.attempt = fm_jobs.attempt THEN fm_jobs.started_at END
WHERE excluded.attempt > fm_jobs.attempt
   OR (excluded.attempt = fm_jobs.attempt AND fm_jobs.completed_at IS NULL AND excluded.status <> 'pending')

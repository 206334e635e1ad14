-- What is said of an older attempt, or of a job that has ended, changes nothing. In the order of the key, so that two
-- engines wait for each other one way round only.
INSERT INTO fm_jobs (execution_id, task_number, attempt, status, step_id, handler_type, created_at, completed_at, timeout_ms,
    max_retries, retry_count, error)
SELECT execution, task, attempt, status, step, handler, at, ended, timeout, retries, retry, error
FROM jsonb_to_recordset($1::text::jsonb) AS change (execution uuid, task bigint, attempt bigint, status text, step text,
    handler text, at bigint, ended bigint, timeout bigint, retries bigint, retry bigint, error text)
ORDER BY execution, task
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

SELECT execution_id, task_number, attempt, status, step_id, handler_type, worker_id, created_at, claimed_at, started_at,
    completed_at, progress_percent, progress_message, last_heartbeat_at, checkpoint_id, timeout_ms, max_retries, retry_count, error
FROM fm_jobs
WHERE completed_at IS NULL
  AND (execution_id, task_number) > (coalesce($1::uuid, '00000000-0000-0000-0000-000000000000'), $2::bigint)
ORDER BY execution_id, task_number LIMIT $3

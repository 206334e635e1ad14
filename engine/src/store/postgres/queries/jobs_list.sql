SELECT execution_id, task_number, attempt, status, step_id, handler_type, worker_id, created_at, claimed_at, started_at,
    completed_at, progress_percent, progress_message, last_heartbeat_at, checkpoint_id, timeout_ms, max_retries, retry_count, error
FROM fm_jobs
WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR handler_type = $2)
  AND ($3::uuid IS NULL OR execution_id = $3)
  AND (execution_id, task_number) < (coalesce($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'), $5::bigint)
  AND ($7::text IS NULL OR (SELECT tenant_id FROM fm_executions WHERE id = execution_id) = $7)
ORDER BY execution_id DESC, task_number DESC LIMIT $6

-- Fenced twice: only for the attempt that is out, and only for the worker that told of it first.
UPDATE fm_jobs SET
    attempt = ?3,
    status = CASE WHEN ?5 OR (attempt = ?3 AND status = 'running') THEN 'running' ELSE 'claimed' END,
    worker_id = ?4,
    claimed_at = CASE WHEN attempt = ?3 THEN coalesce(claimed_at, ?6) ELSE ?6 END,
    started_at = CASE WHEN attempt = ?3 AND started_at IS NOT NULL THEN started_at WHEN ?5 THEN ?6 END,
    completed_at = NULL,
    last_heartbeat_at = ?6,
    progress_percent = coalesce(?7, progress_percent),
    progress_message = CASE WHEN ?7 IS NULL THEN progress_message ELSE ?8 END,
    checkpoint_id = coalesce(?9, checkpoint_id)
WHERE execution_id = ?1 AND task_number = ?2
  AND (attempt < ?3 OR (attempt = ?3 AND completed_at IS NULL AND (worker_id IS NULL OR worker_id = ?4)))
  AND EXISTS (SELECT 1 FROM fm_executions WHERE id = ?1 AND task_out = 1 AND task_number = ?2 AND task_attempt = ?3)
RETURNING (SELECT status = 'cancelling' FROM fm_executions WHERE id = ?1)

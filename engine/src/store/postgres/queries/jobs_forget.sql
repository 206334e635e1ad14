DELETE FROM fm_jobs WHERE execution_id = ANY ($1)
  AND NOT EXISTS (SELECT 1 FROM fm_executions WHERE id = execution_id)

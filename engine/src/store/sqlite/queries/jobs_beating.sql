SELECT execution_id, task_number, attempt FROM fm_jobs
WHERE execution_id IN (SELECT unhex(value) FROM json_each(?1)) AND status IN ('claimed', 'running')
  AND last_heartbeat_at >= ?2

SELECT execution_id, task_number, attempt FROM fm_jobs
WHERE execution_id = ANY ($1) AND status IN ('claimed', 'running') AND last_heartbeat_at >= $2

DELETE FROM fm_progress WHERE (execution_id, task_number, at) IN (
    SELECT execution_id, task_number, at FROM fm_progress WHERE at < ?1 LIMIT ?2)

DELETE FROM fm_task_logs WHERE (execution_id, task_number, attempt, line) IN (
    SELECT execution_id, task_number, attempt, line FROM fm_task_logs WHERE at < ?1 LIMIT ?2)

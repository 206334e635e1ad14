SELECT execution_id, task_number, id, saved_at, bytes
FROM fm_checkpoints WHERE execution_id = ANY ($1)
ORDER BY execution_id, task_number

SELECT id, saved_at, data FROM fm_checkpoints WHERE execution_id = $1 AND task_number = $2

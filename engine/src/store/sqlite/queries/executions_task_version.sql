SELECT version FROM fm_executions WHERE id = ?1 AND task_out = 1 AND task_number = ?2 AND task_attempt = ?3

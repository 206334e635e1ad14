SELECT version FROM fm_executions WHERE id = $1 AND task_out AND task_number = $2 AND task_attempt = $3

SELECT sequence, execution_id, at, task FROM fm_failed_tasks ORDER BY sequence DESC LIMIT $1

SELECT task_number, at, attempt, step_id, progress
FROM fm_progress WHERE execution_id = $1 AND (task_number, at) > ($2, $3)
ORDER BY task_number, at LIMIT $4

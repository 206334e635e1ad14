SELECT task_number, at, attempt, step_id, progress
FROM fm_progress WHERE execution_id = ?1 AND task_number = ?2
ORDER BY at DESC LIMIT 1

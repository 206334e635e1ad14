SELECT task_number, attempt, line, at, step_id, level, message
FROM fm_task_logs WHERE execution_id = $1 AND (task_number, attempt, line) > ($2, $3, $4)
  AND ($5::int8 IS NULL OR task_number = $5) AND ($6::int8 IS NULL OR attempt = $6)
ORDER BY task_number, attempt, line LIMIT $7

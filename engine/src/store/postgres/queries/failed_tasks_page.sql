SELECT sequence, execution_id, at, task FROM fm_failed_tasks
WHERE $2::text IS NULL OR (SELECT tenant_id FROM fm_executions WHERE id = execution_id) = $2
ORDER BY sequence DESC LIMIT $1

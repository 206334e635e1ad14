SELECT sequence, execution_id, at, task FROM fm_failed_tasks
WHERE ?2 IS NULL OR EXISTS (SELECT 1 FROM fm_executions WHERE id = execution_id AND tenant_id = ?2)
ORDER BY sequence DESC LIMIT ?1

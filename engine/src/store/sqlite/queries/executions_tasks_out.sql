SELECT id, task_number, task_attempt, task_scheduled_at, state ->> '$.activity.pool', flow_id, tenant_id
FROM fm_executions INDEXED BY fm_executions_task_out
WHERE task_out = 1 AND id > coalesce(?1, x'') AND task_scheduled_at <= ?2 AND status <> 'paused'
ORDER BY id LIMIT ?3

SELECT id, task_number, task_attempt, task_scheduled_at, task_pool, flow_id, tenant_id
FROM fm_executions
WHERE task_out AND id > coalesce($1::uuid, '00000000-0000-0000-0000-000000000000') AND task_scheduled_at <= $2 AND status <> 'paused'
ORDER BY id LIMIT $3

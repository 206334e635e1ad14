SELECT id FROM fm_executions WHERE root_id = $1 AND parent_id IS NOT NULL AND ended_at IS NULL LIMIT $2

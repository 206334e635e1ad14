SELECT id FROM fm_executions WHERE id = ANY ($1)

SELECT id, version, state, context, output FROM fm_executions WHERE id = ANY ($1) ORDER BY id

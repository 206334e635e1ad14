SELECT id, version, state, context, output
FROM fm_executions WHERE id IN (SELECT unhex(value) FROM json_each(?1))
ORDER BY id

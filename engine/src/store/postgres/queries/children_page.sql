SELECT id, version, state, context, output
FROM fm_executions
WHERE parent_id = $1 AND join_no = $2 AND child_index >= $3
ORDER BY child_index LIMIT $4

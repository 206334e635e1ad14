SELECT child_index, id
FROM fm_executions
WHERE parent_id = $1 AND join_no = $2 AND child_index >= $3 AND ended_at IS NULL AND NOT abandon
ORDER BY child_index LIMIT $4

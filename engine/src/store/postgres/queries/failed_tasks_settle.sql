UPDATE fm_failed_tasks SET settled_as = $2, settled_at = $3, settled_by = $4, reason = $5
WHERE sequence = $1 AND settled_as IS NULL

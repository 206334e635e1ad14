-- Unless the attempt's patches would have more than ?7 bytes together.
INSERT INTO fm_context_patches (execution_id, task_number, attempt, sequence, bytes, changes)
SELECT ?1, ?2, ?3, ?4, ?6, ?5
WHERE ?6 + (SELECT coalesce(sum(bytes), 0) FROM fm_context_patches
    WHERE execution_id = ?1 AND task_number = ?2 AND attempt = ?3) <= ?7

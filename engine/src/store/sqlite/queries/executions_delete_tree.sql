-- Of a tree that has ended: children first, the root once it has none.
DELETE FROM fm_executions WHERE id IN (
    SELECT id FROM (
        SELECT id, 0 AS turn FROM fm_executions WHERE root_id = ?1 AND parent_id IS NOT NULL
        UNION ALL
        SELECT ?1, 1
        ORDER BY turn
    ) LIMIT ?2)
  AND EXISTS (SELECT 1 FROM fm_executions WHERE id = ?1 AND parent_id IS NULL AND ended_at IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM fm_executions WHERE root_id = ?1 AND parent_id IS NOT NULL AND ended_at IS NULL)

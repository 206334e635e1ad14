-- Of a tree that has ended.
DELETE FROM fm_events WHERE delivered = 1 AND source IN (
    SELECT id FROM fm_executions WHERE root_id = ?1 AND parent_id IS NOT NULL UNION ALL SELECT ?1)
  AND EXISTS (SELECT 1 FROM fm_executions WHERE id = ?1 AND parent_id IS NULL AND ended_at IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM fm_executions WHERE root_id = ?1 AND parent_id IS NOT NULL AND ended_at IS NULL)

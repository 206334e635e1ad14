-- As executions_prune, of the flow ?2 of the tenant ?1: those that completed before ?3, and those that ended otherwise before
-- ?4; null: none of those.
WITH gone (id) AS MATERIALIZED (
    SELECT id FROM fm_executions AS root
    WHERE flow_id = ?2 AND coalesce(tenant_id, '') = ?1 AND parent_id IS NULL AND ended_at IS NOT NULL
      AND ended_at < CASE WHEN status = 'completed' THEN ?3 ELSE ?4 END
      AND NOT EXISTS (SELECT 1 FROM fm_executions AS child
          WHERE child.parent_id IS NOT NULL AND child.root_id = root.id AND child.ended_at IS NULL)
    ORDER BY id LIMIT ?5
)
DELETE FROM fm_executions WHERE id IN (
    SELECT id FROM (
        SELECT child.id AS id, 0 AS turn FROM gone JOIN fm_executions AS child
            ON child.root_id = gone.id AND child.parent_id IS NOT NULL
        UNION ALL
        SELECT id, 1 FROM gone
        ORDER BY turn
    ) LIMIT ?5
)

-- Of trees whose root ended before ?1 and of which nothing is alive, but for flows that say themselves how long such are
-- kept: children first, a root once its children are gone.
WITH gone (id) AS MATERIALIZED (
    SELECT id FROM fm_executions AS root
    WHERE ended_at IS NOT NULL AND ended_at < ?1 AND parent_id IS NULL
      AND NOT EXISTS (SELECT 1 FROM fm_executions AS child
          WHERE child.parent_id IS NOT NULL AND child.root_id = root.id AND child.ended_at IS NULL)
      AND NOT EXISTS (SELECT 1 FROM fm_retention AS own
          WHERE own.tenant_id = coalesce(root.tenant_id, '') AND own.flow_id = root.flow_id
            AND CASE WHEN root.status = 'completed' THEN own.completed_ms ELSE own.failed_ms END IS NOT NULL)
    ORDER BY ended_at LIMIT ?2
)
DELETE FROM fm_executions WHERE id IN (
    SELECT id FROM (
        SELECT child.id AS id, 0 AS turn FROM gone JOIN fm_executions AS child
            ON child.root_id = gone.id AND child.parent_id IS NOT NULL
        UNION ALL
        SELECT id, 1 FROM gone
        ORDER BY turn
    ) LIMIT ?2
)

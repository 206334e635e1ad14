-- The snapshot, then the ones behind it.
WITH RECURSIVE chain (parent_id, join_no, level) AS (
    SELECT $1::uuid, $2::int8, 0
    UNION ALL
    SELECT outer_parent, outer_join, level + 1
    FROM chain JOIN fm_snapshots USING (parent_id, join_no)
    WHERE outer_parent IS NOT NULL AND level < $3
)
SELECT parent_id, join_no, outer_parent IS NOT NULL, context
FROM chain JOIN fm_snapshots USING (parent_id, join_no)
ORDER BY level

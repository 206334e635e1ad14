-- Without those whose parent and children have all ended: nobody takes their result, and they go with the parent.
SELECT parent_id, join_no, total, max_live, spawned, succeeded, failed, closing, stop_at_failed,
    stop_at_succeeded, cost_usd, cost_tokens, cost_attempts
FROM fm_joins
WHERE (parent_id, join_no) > (coalesce($1::uuid, '00000000-0000-0000-0000-000000000000'), coalesce($2, 0))
  AND NOT (succeeded + failed >= spawned
      AND EXISTS (SELECT 1 FROM fm_executions WHERE fm_executions.id = fm_joins.parent_id AND fm_executions.ended_at IS NOT NULL))
ORDER BY parent_id, join_no LIMIT $3

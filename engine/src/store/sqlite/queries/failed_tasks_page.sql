-- Newest first.
SELECT sequence, execution_id, at, task, settled_as, settled_at, settled_by, reason,
    (SELECT status FROM fm_executions WHERE id = parked.execution_id),
    NOT EXISTS (SELECT 1 FROM fm_failed_tasks AS later
        WHERE later.execution_id = parked.execution_id AND later.sequence > parked.sequence)
FROM fm_failed_tasks AS parked
WHERE sequence < ?1
  AND (?2 IS NULL OR handler_type = ?2)
  AND (?3 IS NULL OR error_code = ?3)
  AND (?4 IS NULL OR execution_id = ?4)
  AND at >= ?5 AND at < ?6
  AND (?7 IS NULL OR (SELECT flow_id FROM fm_executions WHERE id = parked.execution_id) = ?7)
  AND (?8 IS NULL OR (SELECT tenant_id FROM fm_executions WHERE id = parked.execution_id) = ?8)
  AND (NOT ?9 OR (settled_as IS NULL
      AND (SELECT status FROM fm_executions WHERE id = parked.execution_id) IN ('incident', 'paused')
      AND NOT EXISTS (SELECT 1 FROM fm_failed_tasks AS later
          WHERE later.execution_id = parked.execution_id AND later.sequence > parked.sequence)))
ORDER BY sequence DESC LIMIT ?10

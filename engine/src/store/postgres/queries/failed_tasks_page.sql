-- Newest first. OFFSET keeps what belongs to the execution one look by key for each row.
SELECT sequence, execution_id, at, task, settled_as, settled_at, settled_by, reason,
    (SELECT status FROM fm_executions WHERE id = parked.execution_id OFFSET 0),
    NOT EXISTS (SELECT 1 FROM fm_failed_tasks AS later
        WHERE later.execution_id = parked.execution_id AND later.sequence > parked.sequence OFFSET 0)
FROM fm_failed_tasks AS parked
WHERE sequence < $1
  AND ($2::text IS NULL OR handler_type = $2)
  AND ($3::text IS NULL OR error_code = $3)
  AND ($4::uuid IS NULL OR execution_id = $4)
  AND at >= $5 AND at < $6
  AND ($7::text IS NULL OR (SELECT flow_id FROM fm_executions WHERE id = parked.execution_id OFFSET 0) = $7)
  AND ($8::text IS NULL OR (SELECT tenant_id FROM fm_executions WHERE id = parked.execution_id OFFSET 0) = $8)
  AND (NOT $9 OR (settled_as IS NULL
      AND (SELECT status FROM fm_executions WHERE id = parked.execution_id OFFSET 0) IN ('incident', 'paused')
      AND NOT EXISTS (SELECT 1 FROM fm_failed_tasks AS later
          WHERE later.execution_id = parked.execution_id AND later.sequence > parked.sequence OFFSET 0)))
ORDER BY sequence DESC LIMIT $10

SELECT sequence, execution_id, at, task, settled_as, settled_at, settled_by, reason,
    (SELECT status FROM fm_executions WHERE id = parked.execution_id OFFSET 0),
    NOT EXISTS (SELECT 1 FROM fm_failed_tasks AS later
        WHERE later.execution_id = parked.execution_id AND later.sequence > parked.sequence OFFSET 0)
FROM fm_failed_tasks AS parked
WHERE execution_id = $1 AND task_number = $2
ORDER BY sequence DESC LIMIT 1

-- Those of attempts that are over, or of executions that are gone. By their places, which stay the same because the rows are
-- locked.
DELETE FROM fm_context_patches WHERE ctid = ANY (ARRAY(
    SELECT patch.ctid FROM fm_context_patches AS patch
    WHERE NOT EXISTS (SELECT 1 FROM fm_executions
        WHERE id = patch.execution_id AND task_out AND fm_executions.task_number = patch.task_number
          AND task_attempt = patch.attempt)
    LIMIT $1 FOR UPDATE SKIP LOCKED))

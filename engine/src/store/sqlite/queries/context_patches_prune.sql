-- Those of attempts that are over.
DELETE FROM fm_context_patches WHERE rowid IN (
    SELECT patch.rowid FROM fm_context_patches AS patch
    WHERE NOT EXISTS (SELECT 1 FROM fm_executions
        WHERE id = patch.execution_id AND task_out = 1 AND fm_executions.task_number = patch.task_number
          AND task_attempt = patch.attempt)
    LIMIT ?1)

SELECT patch.execution_id, patch.task_number, patch.attempt, patch.sequence, patch.changes
FROM unnest($1::uuid[], $2::int8[], $3::int8[]) AS wanted (execution_id, task_number, attempt)
CROSS JOIN LATERAL (SELECT * FROM fm_context_patches
    WHERE execution_id = wanted.execution_id AND task_number = wanted.task_number AND attempt = wanted.attempt
    OFFSET 0) AS patch
ORDER BY patch.execution_id, patch.task_number, patch.attempt, patch.sequence

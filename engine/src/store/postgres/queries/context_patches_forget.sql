DELETE FROM fm_context_patches USING unnest($1::uuid[], $2::int8[], $3::int8[]) AS done (execution_id, task_number, attempt)
WHERE fm_context_patches.execution_id = done.execution_id AND fm_context_patches.task_number = done.task_number
  AND fm_context_patches.attempt = done.attempt

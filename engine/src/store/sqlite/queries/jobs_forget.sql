-- The deletion of an execution takes its jobs along; this is for those that had none.
DELETE FROM fm_jobs WHERE execution_id IN (SELECT unhex(value) FROM json_each(?1))
  AND NOT EXISTS (SELECT 1 FROM fm_executions WHERE id = execution_id)

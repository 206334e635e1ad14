-- Fenced: only for the attempt that is out.
INSERT INTO fm_checkpoints (execution_id, task_number, id, saved_at, data)
SELECT fm_executions.id, task_number, $4::text, $5::int8, $6::text FROM fm_executions
WHERE fm_executions.id = $1 AND task_out AND task_number = $2 AND task_attempt = $3 FOR SHARE
ON CONFLICT (execution_id, task_number) DO UPDATE SET id = excluded.id, saved_at = excluded.saved_at, data = excluded.data

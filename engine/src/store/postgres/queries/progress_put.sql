-- Rows of executions that are gone are left out.
INSERT INTO fm_progress (execution_id, task_number, at, attempt, step_id, percent, progress)
SELECT new.* FROM unnest($1::uuid[], $2::int8[], $3::int8[], $4::int8[], $5::text[], $6::float8[], $7::text[])
    AS new (execution_id, task_number, at, attempt, step_id, percent, progress)
WHERE EXISTS (SELECT 1 FROM fm_executions WHERE id = new.execution_id)
ON CONFLICT (execution_id, task_number, at) DO UPDATE SET attempt = excluded.attempt, step_id = excluded.step_id,
    percent = excluded.percent, progress = excluded.progress

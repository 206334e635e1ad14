-- A line that came before stays; lines of executions that are gone are left out.
INSERT INTO fm_task_logs (execution_id, task_number, attempt, line, at, step_id, level, message)
SELECT new.* FROM unnest($1::uuid[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::text[], $7::text[], $8::text[])
    AS new (execution_id, task_number, attempt, line, at, step_id, level, message)
WHERE EXISTS (SELECT 1 FROM fm_executions WHERE id = new.execution_id)
ON CONFLICT (execution_id, task_number, attempt, line) DO NOTHING

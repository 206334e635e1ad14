INSERT INTO fm_failed_tasks (execution_id, at, task, task_number, handler_type, error_code)
SELECT id, at, task, number, handler, code
FROM unnest($1::uuid[], $2::int8[], $3::text[], $4::int8[], $5::text[], $6::text[]) AS new (id, at, task, number, handler, code)

INSERT INTO fm_failed_tasks (execution_id, at, task)
SELECT id, at, task FROM unnest($1::uuid[], $2::int8[], $3::text[]) AS new (id, at, task)

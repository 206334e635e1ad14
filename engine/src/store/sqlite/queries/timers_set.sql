INSERT INTO fm_timers (execution_id, due_at)
SELECT unhex(value ->> 'id'), value ->> 'due' FROM json_each(?1) WHERE true
ON CONFLICT (execution_id) DO UPDATE SET due_at = excluded.due_at

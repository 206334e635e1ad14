INSERT INTO fm_subscriptions (execution_id, name)
SELECT unhex(value ->> 'id'), value ->> 'name' FROM json_each(?1) WHERE true
ON CONFLICT (execution_id) DO UPDATE SET name = excluded.name

INSERT INTO fm_subscriptions (execution_id, name, tenant_id)
SELECT unhex(value ->> 'id'), value ->> 'name',
    coalesce((SELECT tenant_id FROM fm_executions WHERE id = unhex(value ->> 'id')), '')
FROM json_each(?1) WHERE true
ON CONFLICT (execution_id) DO UPDATE SET name = excluded.name

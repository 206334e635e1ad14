INSERT INTO fm_events (id, name, source, at, data, tenant_id)
SELECT value ->> 'id', value ->> 'name', unhex(value ->> 'source'), value ->> 'at', value ->> 'data', value ->> 'tenant'
FROM json_each(?1) WHERE true
ON CONFLICT (tenant_id, id) DO NOTHING

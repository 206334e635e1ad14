INSERT INTO fm_events (id, name, source, at, data, attributes)
SELECT value ->> 'id', value ->> 'name', unhex(value ->> 'source'), value ->> 'at', value ->> 'data', value ->> 'attributes'
FROM json_each(?1) WHERE true
ON CONFLICT (id) DO NOTHING RETURNING id

INSERT INTO fm_events (id, name, source, at, data)
SELECT id, name, source, at, data
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::int8[], $5::text[]) AS new (id, name, source, at, data)
ON CONFLICT (id) DO NOTHING

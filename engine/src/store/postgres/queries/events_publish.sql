INSERT INTO fm_events (id, name, source, at, data, attributes)
SELECT id, name, source, at, data, attributes
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::int8[], $5::text[], $6::text[])
    AS new (id, name, source, at, data, attributes)
ON CONFLICT (id) DO NOTHING RETURNING id

INSERT INTO fm_events (id, name, source, at, data, attributes, tenant_id)
SELECT id, name, source, at, data, attributes, tenant
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::int8[], $5::text[], $6::text[], $7::text[])
    AS new (id, name, source, at, data, attributes, tenant)
ON CONFLICT (tenant_id, id) DO NOTHING RETURNING tenant_id, id

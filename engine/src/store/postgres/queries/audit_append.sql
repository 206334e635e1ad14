INSERT INTO fm_audit (id, at, actor, tenant_id, method, route, target, status, request_id)
SELECT id, at, actor, tenant_id, method, route, target, status, request_id
FROM unnest($1::text[], $2::int8[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int8[], $9::text[])
    WITH ORDINALITY AS new (id, at, actor, tenant_id, method, route, target, status, request_id, number)
ORDER BY number
ON CONFLICT (id) DO NOTHING

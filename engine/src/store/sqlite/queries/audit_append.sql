INSERT INTO fm_audit (id, at, actor, tenant_id, method, route, target, status, request_id)
SELECT new.value ->> 'id', new.value ->> 'at', new.value ->> 'actor', new.value ->> 'tenant', new.value ->> 'method',
    new.value ->> 'route', new.value ->> 'target', new.value ->> 'status', new.value ->> 'request'
FROM json_each(?1) AS new
WHERE true
ORDER BY new.key
ON CONFLICT (id) DO NOTHING

SELECT sequence, id, at, actor, tenant_id, method, route, target, status, request_id, place, hash
FROM fm_audit
WHERE ($1::text IS NULL OR tenant_id = $1) AND sequence < $2
ORDER BY sequence DESC LIMIT $3

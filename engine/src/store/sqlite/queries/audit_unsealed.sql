SELECT sequence, id, at, actor, tenant_id, method, route, target, status, request_id, place, hash
FROM fm_audit WHERE place IS NULL ORDER BY sequence LIMIT ?1

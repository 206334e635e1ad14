SELECT sequence, id, at, actor, tenant_id, method, route, target, status, request_id, place, hash
FROM fm_audit WHERE place > ?1 ORDER BY place LIMIT ?2

SELECT id, name, data, source, at, sequence, attributes, tenant_id FROM fm_events
WHERE name = $1 AND tenant_id = $4 AND at >= $2 ORDER BY at, sequence LIMIT $3

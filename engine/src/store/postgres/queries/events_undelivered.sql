SELECT id, name, data, source, at, sequence, attributes, tenant_id FROM fm_events
WHERE NOT delivered ORDER BY at, sequence LIMIT $1

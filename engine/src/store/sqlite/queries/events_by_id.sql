SELECT id, name, data, source, at, sequence, attributes, tenant_id FROM fm_events WHERE tenant_id = ?2 AND id IN (SELECT value FROM json_each(?1))

SELECT id, name, data, source, at, sequence, attributes, tenant_id FROM fm_events
WHERE tenant_id = ?5 AND tenant_id <> '' AND (at, sequence) < (?1, ?2) AND at >= ?3 ORDER BY at DESC, sequence DESC LIMIT ?4

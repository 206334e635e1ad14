SELECT id, name, data, source, at, sequence, attributes, tenant_id FROM fm_events
WHERE name = ?1 AND tenant_id = ?5 AND (at, sequence) > (?2, ?3) ORDER BY at, sequence LIMIT ?4

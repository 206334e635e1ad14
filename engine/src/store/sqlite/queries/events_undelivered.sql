SELECT id, name, data, source, at, sequence, attributes, tenant_id FROM fm_events INDEXED BY fm_events_undelivered
WHERE delivered = 0 AND (at, sequence) > (?1, ?2) ORDER BY at, sequence LIMIT ?3

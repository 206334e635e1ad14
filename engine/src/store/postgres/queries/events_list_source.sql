SELECT id, name, data, source, at, sequence, attributes, tenant_id FROM fm_events
WHERE source = $7 AND ($5::text IS NULL OR name = $5) AND ($6::text IS NULL OR tenant_id = $6) AND (at, sequence) < ($1, $2) AND at >= $3
ORDER BY at DESC, sequence DESC LIMIT $4

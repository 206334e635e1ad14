SELECT id, name, data, source, at, sequence, attributes FROM fm_events
WHERE name = $1 AND at >= $2 ORDER BY at, sequence LIMIT $3

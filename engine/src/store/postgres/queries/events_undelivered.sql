SELECT id, name, data, source, at, sequence, attributes FROM fm_events
WHERE NOT delivered ORDER BY at, sequence LIMIT $1

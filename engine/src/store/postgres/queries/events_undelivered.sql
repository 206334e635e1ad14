SELECT id, name, data, source, at FROM fm_events
WHERE NOT delivered ORDER BY at, sequence LIMIT $1

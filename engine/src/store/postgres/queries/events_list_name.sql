SELECT id, name, data, source, at, sequence, attributes FROM fm_events
WHERE name = $5 AND (at, sequence) < ($1, $2) AND at >= $3 ORDER BY at DESC, sequence DESC LIMIT $4

SELECT id, name, data, source, at, sequence, attributes FROM fm_events
WHERE name = ?1 AND (at, sequence) > (?2, ?3) ORDER BY at, sequence LIMIT ?4

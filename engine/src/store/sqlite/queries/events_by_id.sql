SELECT id, name, data, source, at, sequence, attributes FROM fm_events WHERE id IN (SELECT value FROM json_each(?1))

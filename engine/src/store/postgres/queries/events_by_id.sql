SELECT id, name, data, source, at, sequence, attributes FROM fm_events WHERE id = ANY ($1)

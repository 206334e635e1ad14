SELECT id, name, data, source, at FROM fm_events INDEXED BY fm_events_undelivered
WHERE delivered = 0 ORDER BY at, sequence LIMIT ?1

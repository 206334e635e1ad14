DELETE FROM fm_events WHERE sequence IN (
    SELECT sequence FROM fm_events WHERE delivered = 1 AND at < ?1 LIMIT ?2)

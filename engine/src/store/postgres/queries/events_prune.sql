DELETE FROM fm_events WHERE sequence = ANY (ARRAY(
    SELECT sequence FROM fm_events WHERE delivered AND at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))

-- By their places, which stay the same because the rows are locked.
DELETE FROM fm_task_logs WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM fm_task_logs WHERE at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))

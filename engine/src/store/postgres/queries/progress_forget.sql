-- Of executions that are gone. Those ended before the instant, and their ids say when they were made: that is earlier still, so
-- that rows of younger executions are not looked at. OFFSET keeps it one look by key for each row.
DELETE FROM fm_progress WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM fm_progress AS old
    WHERE execution_id < fm_first_id($1) AND NOT EXISTS (SELECT 1 FROM fm_executions WHERE id = old.execution_id OFFSET 0)
    LIMIT $2 FOR UPDATE SKIP LOCKED))

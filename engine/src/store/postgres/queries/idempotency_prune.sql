-- By their places, which stay the same because the rows are locked.
DELETE FROM fm_idempotency WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM fm_idempotency WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))

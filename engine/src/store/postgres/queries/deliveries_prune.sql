DELETE FROM fm_webhook_deliveries WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM fm_webhook_deliveries WHERE created_at < $1 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED))

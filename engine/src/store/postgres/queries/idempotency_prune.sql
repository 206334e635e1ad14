DELETE FROM fm_idempotency WHERE (tenant_id, flow_id, key) IN (
    SELECT tenant_id, flow_id, key FROM fm_idempotency WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)

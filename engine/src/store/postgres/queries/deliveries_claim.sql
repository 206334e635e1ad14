UPDATE fm_webhook_deliveries SET next_at = $3
WHERE webhook_id = $1 AND event_id = ANY (ARRAY(
    SELECT event_id FROM fm_webhook_deliveries
    WHERE webhook_id = $1 AND status = 'pending' AND next_at <= $2 ORDER BY next_at LIMIT $4 FOR UPDATE SKIP LOCKED))
RETURNING webhook_id, event_id, event_name, status, attempts, next_at, created_at, last_at, last_status, last_error, duration_ms

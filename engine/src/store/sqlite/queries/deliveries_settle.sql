UPDATE fm_webhook_deliveries
SET status = ?4, attempts = ?5, next_at = ?6, last_at = ?7, last_status = ?8, last_error = ?9, duration_ms = ?10
WHERE webhook_id = ?1 AND event_id = ?2 AND next_at = ?3 AND status = 'pending'

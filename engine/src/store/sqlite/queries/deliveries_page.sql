SELECT webhook_id, event_id, event_name, status, attempts, next_at, created_at, last_at, last_status, last_error, duration_ms FROM fm_webhook_deliveries
WHERE webhook_id = ?1 AND (created_at, event_id) < (?2, ?3) AND (?4 IS NULL OR status = ?4)
ORDER BY created_at DESC, event_id DESC LIMIT ?5

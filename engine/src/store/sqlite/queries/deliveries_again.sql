UPDATE fm_webhook_deliveries SET status = 'pending', attempts = 0, next_at = ?3
WHERE webhook_id = ?1 AND event_id = ?2

DELETE FROM fm_webhook_deliveries WHERE (webhook_id, event_id) IN (
    SELECT webhook_id, event_id FROM fm_webhook_deliveries WHERE created_at < ?1 LIMIT ?2)

SELECT id FROM fm_webhooks WHERE active AND EXISTS (
    SELECT 1 FROM fm_webhook_deliveries
    WHERE webhook_id = fm_webhooks.id AND status = 'pending' AND next_at <= ?1)
ORDER BY id

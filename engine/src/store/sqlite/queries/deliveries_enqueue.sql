INSERT INTO fm_webhook_deliveries (webhook_id, event_id, event_name, status, attempts, next_at, created_at)
SELECT fm_webhooks.id, value ->> 'event', value ->> 'name', 'pending', 0, ?2, ?2
FROM json_each(?1) JOIN fm_webhooks ON fm_webhooks.id = value ->> 'webhook' WHERE true
ON CONFLICT (webhook_id, event_id) DO NOTHING

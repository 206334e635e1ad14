INSERT INTO fm_webhook_deliveries (webhook_id, event_id, event_name, status, attempts, next_at, created_at)
SELECT fm_webhooks.id, event, new.name, 'pending', 0, $4, $4
FROM unnest($1::text[], $2::text[], $3::text[]) AS new (webhook, event, name)
JOIN fm_webhooks ON fm_webhooks.id = webhook
ON CONFLICT (webhook_id, event_id) DO NOTHING

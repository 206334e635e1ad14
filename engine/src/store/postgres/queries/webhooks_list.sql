SELECT id, url, secret, patterns, description, active, deactivated, failing_since, created_at, tenant_id
FROM fm_webhooks ORDER BY created_at, id

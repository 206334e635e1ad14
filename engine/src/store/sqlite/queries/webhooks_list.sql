SELECT id, url, secret, patterns, description, active, deactivated, failing_since, created_at FROM fm_webhooks ORDER BY created_at, id

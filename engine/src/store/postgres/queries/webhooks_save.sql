INSERT INTO fm_webhooks (id, url, secret, patterns, description, active, deactivated, failing_since, created_at, tenant_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (id) DO UPDATE SET url = excluded.url, patterns = excluded.patterns, description = excluded.description,
    active = excluded.active, deactivated = excluded.deactivated, failing_since = excluded.failing_since

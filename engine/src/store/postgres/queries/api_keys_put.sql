INSERT INTO fm_api_keys (id, name, hash, scopes, tenant_id, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING

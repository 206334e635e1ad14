SELECT id, name, hash, scopes, tenant_id, created_at, expires_at, revoked_at, last_used_at
FROM fm_api_keys WHERE id = ?1

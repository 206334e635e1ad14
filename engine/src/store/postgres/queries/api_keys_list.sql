SELECT id, name, hash, scopes, tenant_id, created_at, expires_at, revoked_at, last_used_at
FROM fm_api_keys
WHERE ($1::text IS NULL OR tenant_id = $1)
  AND ($2::int8 IS NULL OR (created_at, id) < ($2, $3::text))
ORDER BY created_at DESC, id DESC LIMIT $4

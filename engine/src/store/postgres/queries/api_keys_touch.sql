UPDATE fm_api_keys SET last_used_at = $2 WHERE id = $1 AND coalesce(last_used_at < $2, true)

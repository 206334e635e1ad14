SELECT execution_id FROM fm_subscriptions
WHERE tenant_id = $4 AND name = $1 AND execution_id > coalesce($2::uuid, '00000000-0000-0000-0000-000000000000')
ORDER BY execution_id LIMIT $3

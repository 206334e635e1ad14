SELECT operation, stopped_at FROM fm_operations
WHERE tenant_id = $1 AND id < coalesce($2::text, 'p') ORDER BY id DESC LIMIT $3

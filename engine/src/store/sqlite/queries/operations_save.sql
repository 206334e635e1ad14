INSERT INTO fm_operations (id, created_at, ended_at, operation, tenant_id, handled) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at, operation = excluded.operation, handled = excluded.handled
WHERE fm_operations.ended_at IS NULL AND (fm_operations.handled < excluded.handled
    OR (fm_operations.handled = excluded.handled AND excluded.ended_at IS NOT NULL))

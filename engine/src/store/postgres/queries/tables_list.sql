SELECT id, columns, tenant_id FROM fm_tables WHERE $1::text IS NULL OR tenant_id = $1 ORDER BY id COLLATE "C", tenant_id COLLATE "C"

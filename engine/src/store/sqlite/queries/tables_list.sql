SELECT id, columns, tenant_id FROM fm_tables WHERE ?1 IS NULL OR tenant_id = ?1 ORDER BY id, tenant_id

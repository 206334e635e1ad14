INSERT INTO fm_tables (id, columns, defined_at, tenant_id) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (tenant_id, id) DO UPDATE SET columns = excluded.columns, defined_at = excluded.defined_at

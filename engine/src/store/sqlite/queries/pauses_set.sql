INSERT INTO fm_pauses (kind, tenant_id, name, at, by, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (kind, tenant_id, name) DO NOTHING

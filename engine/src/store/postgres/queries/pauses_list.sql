SELECT kind, tenant_id, name, at, by, reason FROM fm_pauses ORDER BY kind, tenant_id, name

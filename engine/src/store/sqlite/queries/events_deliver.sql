UPDATE fm_events SET delivered = 1 WHERE tenant_id = ?2 AND id IN (SELECT value FROM json_each(?1)) AND delivered = 0

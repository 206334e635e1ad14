INSERT INTO fm_retention (tenant_id, flow_id, completed_ms, failed_ms, at, by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (tenant_id, flow_id) DO UPDATE SET completed_ms = excluded.completed_ms, failed_ms = excluded.failed_ms,
    at = excluded.at, by = excluded.by

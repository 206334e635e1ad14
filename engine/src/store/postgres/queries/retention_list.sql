SELECT tenant_id, flow_id, completed_ms, failed_ms, at, by FROM fm_retention ORDER BY tenant_id, flow_id

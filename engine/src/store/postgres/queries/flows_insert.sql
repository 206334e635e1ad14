INSERT INTO fm_flows (flow_id, version, hash, status, published_at, tenant_id) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant_id, flow_id, version) DO NOTHING

INSERT INTO fm_flows (flow_id, version, hash, status, published_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (flow_id, version) DO NOTHING

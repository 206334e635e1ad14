INSERT INTO fm_definitions (hash, flow_id, version, status, definition) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (hash) DO NOTHING

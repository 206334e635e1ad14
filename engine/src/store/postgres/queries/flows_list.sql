SELECT flow_id, version, hash, status, tenant_id FROM fm_flows
WHERE ($1::text IS NULL OR flow_id = $1) AND ($2::text IS NULL OR tenant_id = $2)
ORDER BY flow_id, version

SELECT flow_id, version, hash, status, (SELECT generation FROM fm_flows_generation) FROM fm_flows
WHERE flow_id = $1 AND tenant_id = $2

SELECT flow_id, version, hash, status FROM fm_flows WHERE flow_id = ?1 AND version = ?2 AND tenant_id = ?3

SELECT flow_id, version, hash, status FROM fm_flows WHERE $1::text IS NULL OR flow_id = $1 ORDER BY flow_id, version

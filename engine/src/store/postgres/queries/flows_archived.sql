SELECT flow_id, version FROM fm_flows WHERE status = 'archived' ORDER BY flow_id, version

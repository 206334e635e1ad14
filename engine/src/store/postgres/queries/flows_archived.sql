SELECT tenant_id, flow_id, version FROM fm_flows WHERE status = 'archived' ORDER BY tenant_id, flow_id, version

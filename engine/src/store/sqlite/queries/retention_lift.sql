DELETE FROM fm_retention WHERE tenant_id = ?1 AND flow_id = ?2

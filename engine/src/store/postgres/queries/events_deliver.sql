UPDATE fm_events SET delivered = true
WHERE sequence IN (SELECT sequence FROM fm_events WHERE tenant_id = $2 AND id = ANY ($1) AND NOT delivered ORDER BY sequence FOR NO KEY UPDATE)

DELETE FROM fm_idempotency WHERE tenant_id = $1 AND flow_id = $2 AND key = $3 AND execution_id = $4

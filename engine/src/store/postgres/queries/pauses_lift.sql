DELETE FROM fm_pauses WHERE kind = $1 AND tenant_id = $2 AND name = $3

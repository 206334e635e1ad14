SELECT known.tenant_id, known.flow_id, known.key, known.execution_id, known.input_hash
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant, flow, key) JOIN fm_idempotency AS known
    ON known.tenant_id = wanted.tenant AND known.flow_id = wanted.flow AND known.key = wanted.key
WHERE known.expires_at > $4

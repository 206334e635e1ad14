-- Inserts keys, or takes over expired ones. Fewer rows than keys: somebody else was faster.
INSERT INTO fm_idempotency (tenant_id, flow_id, key, execution_id, input_hash, expires_at)
SELECT tenant, flow, key, id, hash, until
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::int8[]) AS new (tenant, flow, key, id, hash, until)
ORDER BY tenant, flow, key
ON CONFLICT (tenant_id, flow_id, key) DO UPDATE SET
    execution_id = excluded.execution_id, input_hash = excluded.input_hash, expires_at = excluded.expires_at
WHERE fm_idempotency.expires_at <= $7

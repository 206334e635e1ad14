-- Inserts keys, or takes over expired ones.
INSERT INTO fm_idempotency (tenant_id, flow_id, key, execution_id, input_hash, expires_at)
SELECT value ->> 'tenant', value ->> 'flow', value ->> 'key', unhex(value ->> 'id'), value ->> 'hash', value ->> 'until'
FROM json_each(?1) WHERE true
ON CONFLICT (tenant_id, flow_id, key) DO UPDATE SET
    execution_id = excluded.execution_id, input_hash = excluded.input_hash, expires_at = excluded.expires_at
WHERE fm_idempotency.expires_at <= ?2

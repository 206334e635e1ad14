SELECT key.tenant_id, key.flow_id, key.key, key.execution_id, key.input_hash
FROM json_each(?1) AS wanted JOIN fm_idempotency AS key
    ON key.tenant_id = wanted.value ->> 'tenant' AND key.flow_id = wanted.value ->> 'flow'
        AND key.key = wanted.value ->> 'key'
WHERE key.expires_at > ?2

INSERT INTO fm_joins (parent_id, join_no, total, max_live, spawned, succeeded, failed, closing, stop_at_failed,
    stop_at_succeeded, cost_usd, cost_tokens, cost_attempts)
SELECT unhex(value ->> 'parent'), value ->> 'join', value ->> 'total', value ->> 'maxLive', value ->> 'spawned',
    value ->> 'succeeded', value ->> 'failed', value ->> 'closing', value ->> 'stopAtFailed', value ->> 'stopAtSucceeded',
    value ->> 'usd', value ->> 'tokens', value ->> 'attempts'
FROM json_each(?1) WHERE true
ON CONFLICT (parent_id, join_no) DO UPDATE SET
    spawned = excluded.spawned, succeeded = excluded.succeeded, failed = excluded.failed, closing = excluded.closing,
    cost_usd = excluded.cost_usd, cost_tokens = excluded.cost_tokens, cost_attempts = excluded.cost_attempts

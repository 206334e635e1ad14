INSERT INTO fm_joins (parent_id, join_no, total, max_live, spawned, succeeded, failed, closing, stop_at_failed,
    stop_at_succeeded, cost_usd, cost_tokens, cost_attempts)
SELECT * FROM unnest($1::uuid[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::bool[],
    $9::int8[], $10::int8[], $11::float8[], $12::int8[], $13::int8[])
ON CONFLICT (parent_id, join_no) DO UPDATE SET
    spawned = excluded.spawned, succeeded = excluded.succeeded, failed = excluded.failed, closing = excluded.closing,
    cost_usd = excluded.cost_usd, cost_tokens = excluded.cost_tokens, cost_attempts = excluded.cost_attempts

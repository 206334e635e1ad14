INSERT INTO fm_budgets (root_id, cost_usd, cost_tokens, cost_attempts)
SELECT unhex(value ->> 'root'), value ->> 'usd', value ->> 'tokens', value ->> 'attempts' FROM json_each(?1) WHERE true
ON CONFLICT (root_id) DO UPDATE SET
    cost_usd = excluded.cost_usd, cost_tokens = excluded.cost_tokens, cost_attempts = excluded.cost_attempts

UPDATE fm_budgets SET cost_usd = new.usd, cost_tokens = new.tokens, cost_attempts = new.attempts
FROM unnest($1::uuid[], $2::float8[], $3::int8[], $4::int8[]) AS new (root, usd, tokens, attempts)
WHERE root_id = new.root

SELECT root_id, cost_usd, cost_tokens, cost_attempts FROM fm_budgets
WHERE root_id IN (SELECT unhex(value) FROM json_each(?1))

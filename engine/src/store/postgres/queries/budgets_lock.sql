-- Makes the rows that are missing, and locks all in order.
INSERT INTO fm_budgets (root_id, cost_usd, cost_tokens, cost_attempts)
SELECT root, 0, 0, 0 FROM unnest($1::uuid[]) AS touched (root) ORDER BY root
ON CONFLICT (root_id) DO UPDATE SET cost_usd = fm_budgets.cost_usd
RETURNING root_id, cost_usd, cost_tokens, cost_attempts

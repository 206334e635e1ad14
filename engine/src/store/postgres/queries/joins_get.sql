SELECT parent_id, join_no, total, max_live, spawned, succeeded, failed, closing, stop_at_failed,
    stop_at_succeeded, cost_usd, cost_tokens, cost_attempts
FROM fm_joins WHERE parent_id = $1 AND join_no = $2

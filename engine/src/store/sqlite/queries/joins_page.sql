SELECT parent_id, join_no, total, max_live, spawned, succeeded, failed, closing, stop_at_failed,
    stop_at_succeeded, cost_usd, cost_tokens, cost_attempts
FROM fm_joins WHERE ?1 IS NULL OR (parent_id, join_no) > (?1, ?2)
ORDER BY parent_id, join_no LIMIT ?3

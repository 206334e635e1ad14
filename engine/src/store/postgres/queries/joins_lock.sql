SELECT parent_id, join_no, total, max_live, spawned, succeeded, failed, closing, stop_at_failed,
    stop_at_succeeded, cost_usd, cost_tokens, cost_attempts
FROM fm_joins
WHERE (parent_id, join_no) IN (SELECT parent, number FROM unnest($1::uuid[], $2::int8[]) AS touched (parent, number))
ORDER BY parent_id, join_no FOR NO KEY UPDATE

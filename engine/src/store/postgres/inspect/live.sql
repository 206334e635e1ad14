-- Executions that have not ended, with the rows that could move them: timer, subscription, fan-outs.
SELECT live.id, live.state, fm_timers.due_at, fm_subscriptions.name,
    ARRAY(SELECT join_no FROM fm_joins WHERE parent_id = live.id) AS joins
FROM fm_executions AS live
LEFT JOIN fm_timers ON fm_timers.execution_id = live.id
LEFT JOIN fm_subscriptions ON fm_subscriptions.execution_id = live.id
WHERE live.ended_at IS NULL AND live.id > $1 ORDER BY live.id LIMIT $2

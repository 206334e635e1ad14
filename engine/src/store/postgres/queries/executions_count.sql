SELECT status, count(*) FROM (
    SELECT status FROM fm_executions WHERE ended_at IS NOT NULL
    UNION ALL
    SELECT status FROM fm_executions WHERE ended_at IS NULL
) AS every GROUP BY status ORDER BY status COLLATE "C"

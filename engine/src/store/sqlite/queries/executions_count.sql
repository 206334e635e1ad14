SELECT status, count(*) FROM (
    SELECT status FROM fm_executions INDEXED BY fm_executions_ended WHERE ended_at IS NOT NULL
    UNION ALL
    SELECT status FROM fm_executions INDEXED BY fm_executions_live WHERE ended_at IS NULL
) GROUP BY status

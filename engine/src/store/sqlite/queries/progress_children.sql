-- Of a child with a task that is out: its latest progress, if that is of this attempt. Of a child that waits for children:
-- how many of them have ended.
SELECT coalesce(sum(CASE WHEN child.task_out = 1 THEN (
        SELECT CASE WHEN latest.attempt = child.task_attempt THEN latest.percent / 100.0 END
        FROM fm_progress AS latest
        WHERE latest.execution_id = child.id AND latest.task_number = child.task_number
        ORDER BY latest.at DESC LIMIT 1)
    ELSE (
        SELECT (own.succeeded + own.failed) * 1.0 / own.total
        FROM fm_joins AS own WHERE own.parent_id = child.id AND own.total > 0
        ORDER BY own.join_no LIMIT 1)
    END), 0.0)
FROM fm_executions AS child
WHERE child.parent_id = ?1 AND child.join_no = ?2 AND child.ended_at IS NULL

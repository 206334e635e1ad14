-- Of a child with a task that is out: its latest progress, if that is of this attempt. Of a child that waits for children:
-- how many of them have ended, and the same of those that have not, down to a number of levels.
WITH RECURSIVE live (id, task_out, task_number, task_attempt, weight, level) AS (
    SELECT child.id, child.task_out, child.task_number, child.task_attempt, 1.0, 1
    FROM fm_executions AS child
    WHERE child.parent_id = ?1 AND child.join_no = ?2 AND child.ended_at IS NULL
    UNION ALL
    SELECT child.id, child.task_out, child.task_number, child.task_attempt, live.weight / own.total, live.level + 1
    FROM live
    JOIN fm_joins AS own ON own.parent_id = live.id AND own.total > 0 AND own.join_no = (
        SELECT min(earliest.join_no) FROM fm_joins AS earliest WHERE earliest.parent_id = live.id AND earliest.total > 0)
    JOIN fm_executions AS child
        ON child.parent_id = live.id AND child.join_no = own.join_no AND child.ended_at IS NULL
    WHERE live.task_out = 0 AND live.level < ?3
)
SELECT coalesce(sum(live.weight * CASE WHEN live.task_out = 1 THEN (
        SELECT CASE WHEN latest.attempt = live.task_attempt THEN latest.percent / 100.0 END
        FROM fm_progress AS latest
        WHERE latest.execution_id = live.id AND latest.task_number = live.task_number
        ORDER BY latest.at DESC LIMIT 1)
    ELSE (
        SELECT (own.succeeded + own.failed) * 1.0 / own.total
        FROM fm_joins AS own WHERE own.parent_id = live.id AND own.total > 0
        ORDER BY own.join_no LIMIT 1)
    END), 0.0)
FROM live

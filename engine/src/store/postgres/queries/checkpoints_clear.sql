-- Says whether the fence held: the attempt is the one that is out, and stays it until this is stored.
WITH fence AS (
    SELECT id FROM fm_executions WHERE id = $1 AND task_out AND task_number = $2 AND task_attempt = $3 FOR SHARE
), cleared AS (
    DELETE FROM fm_checkpoints WHERE execution_id IN (SELECT id FROM fence) AND task_number = $2
)
SELECT id FROM fence

-- Rows of executions that are gone are left out.
INSERT INTO fm_progress (execution_id, task_number, at, attempt, step_id, percent, progress)
SELECT fm_executions.id, new.value ->> 'task', new.value ->> 'at', new.value ->> 'attempt', new.value ->> 'step',
    CAST(new.value ->> 'percent' AS REAL), new.value ->> 'progress'
FROM json_each(?1) AS new CROSS JOIN fm_executions ON fm_executions.id = unhex(new.value ->> 'execution')
WHERE true
ON CONFLICT (execution_id, task_number, at) DO UPDATE SET attempt = excluded.attempt, step_id = excluded.step_id,
    percent = excluded.percent, progress = excluded.progress

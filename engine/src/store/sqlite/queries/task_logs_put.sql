-- A line that came before stays; lines of executions that are gone are left out.
INSERT INTO fm_task_logs (execution_id, task_number, attempt, line, at, step_id, level, message)
SELECT fm_executions.id, new.value ->> 'task', new.value ->> 'attempt', new.value ->> 'line', new.value ->> 'at',
    new.value ->> 'step', new.value ->> 'level', new.value ->> 'message'
FROM json_each(?1) AS new CROSS JOIN fm_executions ON fm_executions.id = unhex(new.value ->> 'execution')
WHERE true
ON CONFLICT (execution_id, task_number, attempt, line) DO NOTHING

-- Executions that end, or that are reopened.
WITH changed (v) AS MATERIALIZED (SELECT value FROM json_each(?1))
UPDATE fm_executions SET
    version = v ->> 'version',
    status = v ->> 'status',
    current_step = v ->> 'step',
    waiting_reason = v ->> 'reason',
    error_code = v ->> 'error',
    updated_at = v ->> 'updated',
    ended_at = v ->> 'ended',
    task_out = v ->> 'out',
    task_number = v ->> 'task',
    task_attempt = v ->> 'attempt',
    task_scheduled_at = v ->> 'scheduled',
    state = v ->> 'state',
    context = v ->> 'context',
    output = v ->> 'output'
FROM changed
WHERE id = unhex(v ->> 'id') AND fm_executions.version = v ->> 'expected'
RETURNING id

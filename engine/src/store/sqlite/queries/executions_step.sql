-- The hot path: executions that stay alive. Columns that such a step cannot change are not named, so that their indexes are not written.
UPDATE fm_executions SET
    version = v ->> 'version',
    status = v ->> 'status',
    current_step = v ->> 'step',
    waiting_reason = v ->> 'reason',
    error_code = v ->> 'error',
    updated_at = v ->> 'updated',
    task_out = v ->> 'out',
    task_number = v ->> 'task',
    task_attempt = v ->> 'attempt',
    task_scheduled_at = v ->> 'scheduled',
    state = v ->> 'state',
    context = v ->> 'context'
FROM (SELECT value AS v FROM jsonb_each(?1) LIMIT -1)
WHERE id = unhex(v ->> 'id') AND fm_executions.version = v ->> 'expected'
RETURNING id

INSERT INTO fm_executions (id, version, status, updated_at, ended_at, task_out, task_number, task_attempt,
    task_scheduled_at, parent_id, join_no, child_index, abandon, root_id, created_at, flow_id, flow_version,
    current_step, waiting_reason, error_code, tenant_id, labels, state, output, context)
SELECT unhex(v ->> 'id'), v ->> 'version', v ->> 'status', v ->> 'updated', v ->> 'ended', v ->> 'out', v ->> 'task',
    v ->> 'attempt', v ->> 'scheduled', unhex(v ->> 'parent'), v ->> 'join', v ->> 'index', v ->> 'abandon',
    unhex(v ->> 'root'), v ->> 'created', v ->> 'flow', v ->> 'flowVersion', v ->> 'step', v ->> 'reason',
    v ->> 'error', v ->> 'tenant', v ->> 'labels', v ->> 'state', v ->> 'output', v ->> 'context'
FROM (SELECT value AS v FROM jsonb_each(?1) LIMIT -1)

-- By their places, which stay the same because the rows are locked.
DELETE FROM fm_checkpoints WHERE ctid = ANY (ARRAY(
    SELECT fm_checkpoints.ctid FROM fm_checkpoints JOIN fm_executions ON fm_executions.id = fm_checkpoints.execution_id
    WHERE fm_executions.ended_at IS NOT NULL AND fm_executions.ended_at < $1
    LIMIT $2 FOR UPDATE OF fm_checkpoints SKIP LOCKED))

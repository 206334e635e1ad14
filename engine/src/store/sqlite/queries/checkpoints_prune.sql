DELETE FROM fm_checkpoints WHERE rowid IN (
    SELECT fm_checkpoints.rowid FROM fm_checkpoints JOIN fm_executions ON fm_executions.id = fm_checkpoints.execution_id
    WHERE fm_executions.ended_at IS NOT NULL AND fm_executions.ended_at < ?1 LIMIT ?2)

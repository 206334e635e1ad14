-- Jobs whose executions were pruned: they ended before their executions did. Those of executions that are still there are
-- passed over, each with one look at a key.
DELETE FROM fm_jobs WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM fm_jobs AS job
    WHERE completed_at IS NOT NULL AND completed_at < $1
      AND (SELECT 1 FROM fm_executions WHERE id = job.execution_id) IS NULL
    LIMIT $2 FOR UPDATE SKIP LOCKED))

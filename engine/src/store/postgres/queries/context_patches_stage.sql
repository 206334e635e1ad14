-- Whether the attempt is the one that is out, and stays it until this is stored; whether the patch was there before, the same;
-- whether it was stored now: unless the attempt's patches would have more than $7 bytes together.
WITH fence AS (
    SELECT id FROM fm_executions WHERE id = $1 AND task_out AND task_number = $2 AND task_attempt = $3 FOR SHARE
), known AS (
    SELECT changes = $6 AS same FROM fm_context_patches
    WHERE execution_id = $1 AND task_number = $2 AND attempt = $3 AND sequence = $4
), retired AS (
    -- An execution has one attempt out: what others staged is of no use any more.
    DELETE FROM fm_context_patches
    WHERE execution_id IN (SELECT id FROM fence) AND NOT (task_number = $2 AND attempt = $3)
), staged AS (
    INSERT INTO fm_context_patches (execution_id, task_number, attempt, sequence, bytes, changes)
    SELECT id, $2, $3, $4, $5::int8, $6::text FROM fence
    WHERE NOT EXISTS (SELECT 1 FROM known) AND $5 + (SELECT coalesce(sum(bytes), 0) FROM fm_context_patches
        WHERE execution_id = $1 AND task_number = $2 AND attempt = $3) <= $7::int8
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT EXISTS (SELECT 1 FROM fence), (SELECT same FROM known), EXISTS (SELECT 1 FROM staged)

-- Fenced: only for the attempt that is out. An object that it refers to was registered, and is used from now on.
WITH fence AS (
    SELECT id FROM fm_executions WHERE id = $1 AND task_out AND task_number = $2 AND task_attempt = $3 FOR SHARE
), used AS (
    UPDATE fm_objects SET used = true WHERE key = $9::text AND EXISTS (SELECT 1 FROM fence) RETURNING key
)
INSERT INTO fm_checkpoints (execution_id, task_number, id, saved_at, bytes, kind, content_type, object_key, data)
SELECT id, $2::int8, $4::text, $5::int8, $6::int8, $7::text, $8::text, $9::text, $10::text FROM fence
WHERE $9::text IS NULL OR EXISTS (SELECT 1 FROM used)
ON CONFLICT (execution_id, task_number) DO UPDATE SET id = excluded.id, saved_at = excluded.saved_at,
    version = fm_checkpoints.version + 1, bytes = excluded.bytes, kind = excluded.kind, content_type = excluded.content_type,
    object_key = excluded.object_key, data = excluded.data
RETURNING version

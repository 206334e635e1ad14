INSERT INTO fm_checkpoints (execution_id, task_number, id, saved_at, bytes, kind, content_type, object_key, data)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
ON CONFLICT (execution_id, task_number) DO UPDATE SET id = excluded.id, saved_at = excluded.saved_at, version = version + 1,
    bytes = excluded.bytes, kind = excluded.kind, content_type = excluded.content_type, object_key = excluded.object_key,
    data = excluded.data
RETURNING version

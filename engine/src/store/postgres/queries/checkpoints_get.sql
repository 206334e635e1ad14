SELECT id, saved_at, version, bytes, kind, content_type, object_key, data FROM fm_checkpoints WHERE execution_id = $1 AND task_number = $2

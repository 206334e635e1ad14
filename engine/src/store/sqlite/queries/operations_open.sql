SELECT operation, stopped_at FROM fm_operations WHERE ended_at IS NULL ORDER BY created_at, id LIMIT ?1

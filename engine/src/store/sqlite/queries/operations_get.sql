SELECT operation, stopped_at FROM fm_operations WHERE id = ?1

UPDATE fm_operations SET stopped_at = ?2 WHERE id = ?1 AND ended_at IS NULL AND stopped_at IS NULL

DELETE FROM fm_operations WHERE id IN (
    SELECT id FROM fm_operations WHERE ended_at IS NOT NULL AND ended_at < ?1 ORDER BY ended_at LIMIT ?2)

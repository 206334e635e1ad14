SELECT operation, stopped_at FROM fm_operations
WHERE id < coalesce(?1, 'p') ORDER BY id DESC LIMIT ?2

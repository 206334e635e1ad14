SELECT sequence, id, row, execution_id, at FROM fm_table_rows
WHERE table_id = ?1 AND (?2 IS NULL OR sequence > ?2) ORDER BY sequence LIMIT ?3

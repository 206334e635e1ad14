SELECT sequence, id, row, execution_id, at FROM fm_table_rows
WHERE tenant_id = ?4 AND table_id = ?1 AND sequence > coalesce(?2, -1) ORDER BY sequence LIMIT ?3

SELECT execution_id, code FROM fm_operation_items
WHERE operation_id = ?1 AND execution_id < coalesce(?2, x'ffffffffffffffffffffffffffffffff')
ORDER BY execution_id DESC LIMIT ?3

SELECT execution_id, code FROM fm_operation_items
WHERE operation_id = $1 AND execution_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY execution_id DESC LIMIT $3

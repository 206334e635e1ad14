INSERT INTO fm_operation_items (operation_id, execution_id, code)
SELECT $1, id, code FROM unnest($2::uuid[], $3::text[]) AS new (id, code)
ON CONFLICT (operation_id, execution_id) DO NOTHING

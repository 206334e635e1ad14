INSERT INTO fm_operation_items (operation_id, execution_id, code)
SELECT ?1, unhex(value ->> 'execution'), value ->> 'code' FROM json_each(?2) WHERE true
ON CONFLICT (operation_id, execution_id) DO NOTHING

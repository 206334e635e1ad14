INSERT INTO fm_table_rows (table_id, id, execution_id, pipe, at, row)
SELECT value ->> 'table', value ->> 'id', unhex(value ->> 'execution'), value ->> 'pipe', value ->> 'at', value ->> 'row'
FROM json_each(?1) WHERE true
ON CONFLICT (table_id, id) DO NOTHING

INSERT INTO fm_table_rows (table_id, id, execution_id, pipe, at, row, tenant_id)
SELECT value ->> 'table', value ->> 'id', unhex(value ->> 'execution'), value ->> 'pipe', value ->> 'at', value ->> 'row',
    value ->> 'tenant'
FROM json_each(?1) WHERE true
ON CONFLICT (tenant_id, table_id, id) DO NOTHING

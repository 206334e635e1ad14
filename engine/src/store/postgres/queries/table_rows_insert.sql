-- Numbered in the order of insertion; inserted, and so locked, in the order of their ids.
INSERT INTO fm_table_rows (sequence, table_id, id, execution_id, pipe, at, row, tenant_id)
SELECT sequence, table_id, id, execution, pipe, at, row, tenant FROM (
    SELECT nextval('fm_table_rows_sequence') AS sequence, new.*
    FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[], $5::int8[], $6::text[], $7::text[])
        AS new (table_id, id, execution, pipe, at, row, tenant)
) AS numbered
ORDER BY tenant, table_id, id, sequence
ON CONFLICT (tenant_id, table_id, id) DO NOTHING

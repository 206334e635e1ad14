INSERT INTO fm_tables (id, columns, defined_at) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET columns = excluded.columns, defined_at = excluded.defined_at

INSERT INTO fm_operations (id, created_at, ended_at, operation) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at, operation = excluded.operation

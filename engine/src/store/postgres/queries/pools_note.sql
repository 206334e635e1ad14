INSERT INTO fm_pools (pool, server_id, generation) VALUES ($1, $2, 1)
ON CONFLICT (pool) DO UPDATE SET
    generation = fm_pools.generation + (fm_pools.server_id <> excluded.server_id)::int, server_id = excluded.server_id
RETURNING generation

INSERT INTO fm_pools (pool, generation, server_id) VALUES (?1, 1, ?2)
ON CONFLICT (pool) DO UPDATE SET
    generation = fm_pools.generation + (fm_pools.server_id <> excluded.server_id),
    server_id = excluded.server_id
RETURNING generation

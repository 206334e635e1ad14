INSERT INTO fm_keys (name, key) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING

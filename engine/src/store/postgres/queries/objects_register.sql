INSERT INTO fm_objects (key, used, at) VALUES ($1, false, $2) ON CONFLICT (key) DO NOTHING

INSERT INTO fm_objects (key, used, at) VALUES (?1, 0, ?2) ON CONFLICT (key) DO NOTHING

SELECT id, columns FROM fm_tables ORDER BY id COLLATE "C"

DELETE FROM fm_objects WHERE key = ANY ($1)

UPDATE fm_objects SET used = 1 WHERE key = ?1

DELETE FROM fm_objects WHERE key IN (SELECT value FROM json_each(?1))

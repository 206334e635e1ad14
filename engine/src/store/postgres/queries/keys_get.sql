SELECT key FROM fm_keys WHERE name = $1

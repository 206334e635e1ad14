DELETE FROM fm_pauses WHERE kind = $1 AND name = $2

SELECT kind, name, at, by, reason FROM fm_pauses ORDER BY kind, name

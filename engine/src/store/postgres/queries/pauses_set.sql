INSERT INTO fm_pauses (kind, name, at, by, reason) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (kind, name) DO NOTHING

INSERT INTO fm_turns (name, holder, until) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE fm_turns.holder = excluded.holder OR fm_turns.until <= $4

SELECT place, hash FROM fm_audit WHERE place IS NOT NULL ORDER BY place DESC LIMIT 1

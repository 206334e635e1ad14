UPDATE fm_health SET checks = checks + 1 WHERE id = 1

SELECT execution_id FROM fm_subscriptions
WHERE name = ?1 AND (?2 IS NULL OR execution_id > ?2)
ORDER BY execution_id LIMIT ?3

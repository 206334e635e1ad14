SELECT execution_id FROM fm_subscriptions
WHERE name = ?1 AND execution_id > coalesce(?2, x'')
ORDER BY execution_id LIMIT ?3

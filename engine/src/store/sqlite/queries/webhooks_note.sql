UPDATE fm_webhooks SET
    failing_since = CASE WHEN ?2 THEN NULL ELSE coalesce(failing_since, ?3) END,
    active = active AND NOT ?4,
    deactivated = CASE WHEN ?4 THEN 'gone' ELSE deactivated END
WHERE id = ?1

DELETE FROM fm_webhooks WHERE id = ?1

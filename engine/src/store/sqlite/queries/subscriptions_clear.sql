DELETE FROM fm_subscriptions WHERE execution_id IN (SELECT unhex(value) FROM json_each(?1))

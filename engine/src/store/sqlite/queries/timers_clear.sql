DELETE FROM fm_timers WHERE execution_id IN (SELECT unhex(value) FROM json_each(?1))

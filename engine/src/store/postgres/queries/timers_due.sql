SELECT execution_id FROM fm_timers WHERE due_at <= $1 ORDER BY due_at, execution_id LIMIT $2

SELECT min(due_at) FROM fm_timers

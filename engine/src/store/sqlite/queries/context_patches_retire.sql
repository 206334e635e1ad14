-- An execution has one attempt out: what others staged is of no use any more.
DELETE FROM fm_context_patches WHERE execution_id = ?1 AND NOT (task_number = ?2 AND attempt = ?3)

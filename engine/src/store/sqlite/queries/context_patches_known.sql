SELECT changes = ?5 FROM fm_context_patches
WHERE execution_id = ?1 AND task_number = ?2 AND attempt = ?3 AND sequence = ?4

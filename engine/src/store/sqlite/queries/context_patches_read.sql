-- Of the attempts in ?1: a JSON list of [execution, task, attempt].
SELECT patch.execution_id, patch.task_number, patch.attempt, patch.sequence, patch.changes
FROM json_each(?1) AS wanted CROSS JOIN fm_context_patches AS patch
WHERE patch.execution_id = unhex(json_extract(wanted.value, '$[0]'))
  AND patch.task_number = json_extract(wanted.value, '$[1]') AND patch.attempt = json_extract(wanted.value, '$[2]')
ORDER BY patch.execution_id, patch.task_number, patch.attempt, patch.sequence

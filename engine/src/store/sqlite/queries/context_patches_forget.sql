DELETE FROM fm_context_patches WHERE rowid IN (
    SELECT patch.rowid FROM json_each(?1) AS wanted CROSS JOIN fm_context_patches AS patch
    WHERE patch.execution_id = unhex(json_extract(wanted.value, '$[0]'))
      AND patch.task_number = json_extract(wanted.value, '$[1]') AND patch.attempt = json_extract(wanted.value, '$[2]'))

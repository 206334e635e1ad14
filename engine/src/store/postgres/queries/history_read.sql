-- The decision that holds the event $2, and those after it. The history of an execution that is gone may still be there.
SELECT first_sequence, at, events FROM fm_history
WHERE execution_id = $1 AND first_sequence >= coalesce(
    (SELECT max(first_sequence) FROM fm_history WHERE execution_id = $1 AND first_sequence <= $2), 0)
  AND EXISTS (SELECT 1 FROM fm_executions WHERE id = $1)
ORDER BY first_sequence LIMIT $3

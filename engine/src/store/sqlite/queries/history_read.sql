-- The decision that holds the event ?2, and those after it.
SELECT first_sequence, at, events FROM fm_history
WHERE execution_id = ?1 AND first_sequence >= coalesce(
    (SELECT max(first_sequence) FROM fm_history WHERE execution_id = ?1 AND first_sequence <= ?2), 0)
ORDER BY first_sequence LIMIT ?3

UPDATE fm_audit SET place = seal.value ->> 'place', hash = seal.value ->> 'hash'
FROM json_each(?2) AS seal
WHERE fm_audit.sequence = seal.value ->> 'sequence' AND fm_audit.place IS NULL
  AND (SELECT coalesce(max(place), 0) FROM fm_audit) = ?1

UPDATE fm_audit SET place = seal.place, hash = seal.hash
FROM unnest($2::int8[], $3::int8[], $4::text[]) AS seal (sequence, place, hash)
WHERE fm_audit.sequence = seal.sequence AND fm_audit.place IS NULL
  AND (SELECT coalesce(max(place), 0) FROM fm_audit) = $1

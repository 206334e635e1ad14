-- A page of one part of a search. It is planned anew for each call: a condition that is not asked for is then no condition, and each
-- index can answer.
SELECT id, flow_id, flow_version, status, current_step, waiting_reason, error_code, parent_id, labels::text, created_at, updated_at
FROM fm_executions
WHERE id BETWEEN $1 AND $2
  AND ($3::text IS DISTINCT FROM 'live' OR ended_at IS NULL)
  AND ($3::text IS DISTINCT FROM 'ended' OR ended_at IS NOT NULL)
  AND ($4::text[] IS NULL OR status = ANY ($4))
  AND ($5::text IS NULL OR flow_id = $5)
  AND ($6::text IS NULL OR flow_version = $6)
  AND ($7::text IS NULL OR (labels @> $7::jsonb AND labels <> '{}'))
  AND ($8::text IS NULL OR tenant_id = $8)
  AND ($9::bigint IS NULL OR created_at >= $9)
  AND ($10::bigint IS NULL OR created_at < $10)
  AND ($11::bigint IS NULL OR updated_at >= $11)
  AND ($12::bigint IS NULL OR updated_at < $12)
  AND ($13::bigint IS NULL OR ended_at >= $13)
  AND ($14::bigint IS NULL OR ended_at < $14)
  AND ($15::text IS NULL OR error_code = $15)
  AND ($16::text IS NULL OR current_step = $16)
  AND ($17::text IS NULL OR ended_step = $17)
  AND ($18::text IS NULL OR starts_with(waiting_reason, $18))
  AND ($19::uuid IS NULL OR parent_id = $19)
  AND ($20 OR parent_id IS NULL)
  AND ($21::uuid IS NULL OR (NOT fm_times_in_order(id, created_at, ended_at) AND (id < $21 OR id > $22)))
ORDER BY id DESC LIMIT $23

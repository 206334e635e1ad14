-- Executions that ended in one way ($8).
SELECT id, flow_id, flow_version, status, current_step, waiting_reason, error_code, parent_id, labels::text, created_at, updated_at
FROM fm_executions
WHERE ended_at IS NOT NULL AND status = $8 AND ($6::uuid IS NULL OR parent_id = $6)
  AND id < coalesce($1::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  AND ($2::text[] IS NULL OR status = ANY ($2))
  AND ($3::text IS NULL OR flow_id = $3)
  AND ($4::text IS NULL OR labels @> $4::jsonb)
  AND ($5 OR parent_id IS NULL)
ORDER BY id DESC LIMIT $7

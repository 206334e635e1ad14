-- Executions that have ended.
SELECT id, flow_id, flow_version, status, current_step, waiting_reason, error_code, parent_id, labels, created_at, updated_at
FROM fm_executions
WHERE ended_at IS NOT NULL
  AND id BETWEEN ?1 AND ?2
  AND (?3 IS NULL OR status IN (SELECT value FROM json_each(?3)))
  AND (?4 IS NULL OR flow_id = ?4)
  AND (?5 IS NULL OR flow_version = ?5)
  AND (?6 IS NULL OR NOT EXISTS (
      SELECT 1 FROM json_each(?6) AS wanted WHERE NOT EXISTS (
          SELECT 1 FROM json_each(CASE WHEN json_valid(labels) THEN labels ELSE '{}' END) AS label
          WHERE label.key = wanted.key AND label.value = wanted.value)))
  AND (?7 IS NULL OR tenant_id = ?7)
  AND (?8 IS NULL OR created_at >= ?8)
  AND (?9 IS NULL OR created_at < ?9)
  AND (?10 IS NULL OR updated_at >= ?10)
  AND (?11 IS NULL OR updated_at < ?11)
  AND (?12 IS NULL OR error_code = ?12)
  AND (?13 IS NULL OR current_step = ?13)
  AND (?14 IS NULL OR substr(waiting_reason, 1, length(?14)) = ?14)
  AND (?15 IS NULL OR parent_id = ?15)
  AND (?16 OR parent_id IS NULL)
ORDER BY id DESC LIMIT ?17

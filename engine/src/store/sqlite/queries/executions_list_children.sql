-- Children of one execution.
SELECT id, flow_id, flow_version, status, current_step, waiting_reason, error_code, parent_id, labels, created_at, updated_at
FROM fm_executions
WHERE parent_id = ?6
  AND id < coalesce(?1, x'ffffffffffffffffffffffffffffffffff')
  AND (?2 IS NULL OR status IN (SELECT value FROM json_each(?2)))
  AND (?3 IS NULL OR flow_id = ?3)
  AND (?4 IS NULL OR NOT EXISTS (
      SELECT 1 FROM json_each(?4) AS wanted WHERE NOT EXISTS (
          SELECT 1 FROM json_each(CASE WHEN json_valid(labels) THEN labels ELSE '{}' END) AS label
          WHERE label.key = wanted.key AND label.value = wanted.value)))
  AND (?5 OR parent_id IS NULL)
ORDER BY id DESC LIMIT ?7

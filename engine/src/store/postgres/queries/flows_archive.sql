UPDATE fm_flows SET status = CASE WHEN $3 THEN 'archived' ELSE coalesce(
    (SELECT nullif(definition.status, 'archived') FROM fm_definitions AS definition WHERE definition.hash = fm_flows.hash),
    'published') END
WHERE flow_id = $1 AND ($2::text IS NULL OR version = $2) AND (status = 'archived') <> $3
  AND tenant_id = $4

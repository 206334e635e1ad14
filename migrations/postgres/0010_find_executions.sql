-- Why: lists and counts by tenant, error, step, label and time are answered by an index each, though no index holds what an
-- ordinary step changes: the pages of fm_executions would no longer keep new versions beside the old ones.

-- The step that an execution ended at. Until then it is null, so that a step changes no index. Adding it writes the table once.
ALTER TABLE fm_executions ADD COLUMN ended_step text
    GENERATED ALWAYS AS (CASE WHEN ended_at IS NOT NULL THEN current_step END) STORED;

-- Whether the id tells when the execution was created, and the execution ended after that: each to within ten seconds, which
-- clocks of several engines may differ by. So it is unless a starter has chosen an id.
CREATE FUNCTION fm_times_in_order(id uuid, created_at bigint, ended_at bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN created_at BETWEEN ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint - 10000
        AND ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint + 10000
    THEN coalesce(ended_at >= created_at - 10000, true)
    ELSE false
END;

-- All for executions_list and executions_count_some.
CREATE INDEX fm_executions_labels ON fm_executions USING gin (labels jsonb_path_ops) WHERE labels <> '{}';
CREATE INDEX fm_executions_tenant ON fm_executions (tenant_id, id) WHERE tenant_id IS NOT NULL;
CREATE INDEX fm_executions_error ON fm_executions (error_code, id) WHERE error_code IS NOT NULL;
CREATE INDEX fm_executions_ended_step ON fm_executions (ended_step, id) WHERE ended_step IS NOT NULL;
-- The few that a span of ids does not find.
CREATE INDEX fm_executions_astray ON fm_executions (id) WHERE NOT fm_times_in_order(id, created_at, ended_at);

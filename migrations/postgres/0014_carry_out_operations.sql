-- Why: operations on many executions are listed by tenant, stopped while an engine carries them out, and never moved back by
-- an engine that was slow. Flows say how long their executions are kept.

ALTER TABLE fm_operations
    ADD COLUMN tenant_id  text NOT NULL DEFAULT '',
    ADD COLUMN handled    bigint NOT NULL DEFAULT 0,
    ADD COLUMN stopped_at bigint;
-- For operations_list_tenant.
CREATE INDEX fm_operations_tenant ON fm_operations (tenant_id, id);

-- How long the executions of a flow are kept, where that is not the default: milliseconds after their end.
CREATE TABLE fm_retention (
    tenant_id    text NOT NULL,
    flow_id      text NOT NULL,
    completed_ms bigint,
    failed_ms    bigint,
    at           bigint NOT NULL,
    by           text NOT NULL,
    PRIMARY KEY (tenant_id, flow_id),
    CONSTRAINT says_something CHECK (completed_ms IS NOT NULL OR failed_ms IS NOT NULL)
);

-- Deletes executions with all that belongs to them, their history and what their tasks said at once.
CREATE FUNCTION fm_forget_whole(gone uuid[]) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM fm_history WHERE execution_id = ANY (gone);
    DELETE FROM fm_progress WHERE execution_id = ANY (gone);
    DELETE FROM fm_task_logs WHERE execution_id = ANY (gone);
    DELETE FROM fm_jobs WHERE execution_id = ANY (gone);
    DELETE FROM fm_context_patches WHERE execution_id = ANY (gone);
    RETURN fm_forget(gone);
END $$;

-- As before, but for executions of flows that say themselves how long such are kept.
CREATE OR REPLACE FUNCTION fm_prune(ended_before bigint, max bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    roots uuid[];
    gone uuid[];
    deleted bigint;
BEGIN
    SELECT coalesce(array_agg(id), '{}') INTO roots FROM (
        SELECT id FROM fm_executions AS root
        WHERE ended_at IS NOT NULL AND ended_at < ended_before AND parent_id IS NULL
          AND NOT EXISTS (SELECT 1 FROM fm_executions AS child
              WHERE child.parent_id IS NOT NULL AND child.root_id = root.id AND child.ended_at IS NULL)
          AND NOT EXISTS (SELECT 1 FROM fm_retention AS own
              WHERE own.tenant_id = coalesce(root.tenant_id, '') AND own.flow_id = root.flow_id
                AND CASE WHEN root.status = 'completed' THEN own.completed_ms ELSE own.failed_ms END IS NOT NULL)
        ORDER BY ended_at LIMIT max FOR UPDATE SKIP LOCKED) AS found;
    SELECT coalesce(array_agg(id), '{}') INTO gone FROM (
        SELECT id FROM fm_executions
        WHERE root_id = ANY (roots) AND parent_id IS NOT NULL AND ended_at IS NOT NULL
        LIMIT max FOR UPDATE SKIP LOCKED) AS found;
    deleted := fm_forget(gone);
    SELECT coalesce(array_agg(id), '{}') INTO gone FROM (
        SELECT id FROM unnest(roots) AS found (id)
        WHERE NOT EXISTS (SELECT 1 FROM fm_executions WHERE root_id = found.id AND parent_id IS NOT NULL)
        LIMIT max - deleted) AS childless;
    RETURN deleted + fm_forget(gone);
END $$;

-- As fm_prune, for the executions of one flow: those that completed before, and those that ended otherwise before; null: none
-- of those. Nothing of them waits for its week.
CREATE FUNCTION fm_prune_flow(the_tenant text, the_flow text, completed_before bigint, failed_before bigint, max bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    roots uuid[];
    gone uuid[];
    deleted bigint;
BEGIN
    SELECT coalesce(array_agg(id), '{}') INTO roots FROM (
        SELECT id FROM fm_executions AS root
        WHERE flow_id = the_flow AND coalesce(tenant_id, '') = the_tenant AND parent_id IS NULL AND ended_at IS NOT NULL
          AND ended_at < CASE WHEN status = 'completed' THEN completed_before ELSE failed_before END
          AND NOT EXISTS (SELECT 1 FROM fm_executions AS child
              WHERE child.parent_id IS NOT NULL AND child.root_id = root.id AND child.ended_at IS NULL)
        ORDER BY id LIMIT max FOR UPDATE SKIP LOCKED) AS found;
    SELECT coalesce(array_agg(id), '{}') INTO gone FROM (
        SELECT id FROM fm_executions
        WHERE root_id = ANY (roots) AND parent_id IS NOT NULL AND ended_at IS NOT NULL
        LIMIT max FOR UPDATE SKIP LOCKED) AS found;
    deleted := fm_forget_whole(gone);
    SELECT coalesce(array_agg(id), '{}') INTO gone FROM (
        SELECT id FROM unnest(roots) AS found (id)
        WHERE NOT EXISTS (SELECT 1 FROM fm_executions WHERE root_id = found.id AND parent_id IS NOT NULL)
        LIMIT max - deleted) AS childless;
    RETURN deleted + fm_forget_whole(gone);
END $$;

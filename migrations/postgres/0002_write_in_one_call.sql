-- Why: a batch of steps, or of starts, is one round trip. The arrays are columns: the same place in each is one row.

-- Changes executions whose versions are the expected ones, and writes what belongs to them; says which. An id occurs once.
CREATE FUNCTION fm_step(
    ids uuid[], expected bigint[], versions bigint[], statuses text[], steps text[], reasons text[], errors text[],
    updated bigint[], ended bigint[], tasks bigint[], attempts bigint[], pools text[], scheduled bigint[],
    states text[], contexts text[], outputs text[],
    history_ids uuid[], history_firsts bigint[], history_ats bigint[], history_events text[],
    wake_ids uuid[], wake_dues bigint[], await_ids uuid[], await_names text[]
) RETURNS uuid[] LANGUAGE plpgsql
-- Few rows of a large table by their key: the plan never depends on what the statistics say.
SET plan_cache_mode = force_generic_plan SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
AS $$
DECLARE
    held uuid[];
BEGIN
    PERFORM 1 FROM fm_executions WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
    WITH changed AS (
        UPDATE fm_executions AS execution SET
            version = new.version, status = new.status, current_step = new.step, waiting_reason = new.reason,
            error_code = new.error, updated_at = new.updated, ended_at = new.ended, task_out = new.task IS NOT NULL,
            task_number = new.task, task_attempt = new.attempt, task_pool = new.pool, task_scheduled_at = new.scheduled,
            state = new.state, context = new.context, output = new.output
        FROM unnest(ids, expected, versions, statuses, steps, reasons, errors, updated, ended, tasks, attempts, pools,
            scheduled, states, contexts, outputs)
            AS new (id, expected, version, status, step, reason, error, updated, ended, task, attempt, pool, scheduled,
                state, context, output)
        WHERE execution.id = new.id AND execution.version = new.expected
        RETURNING execution.id
    ) SELECT coalesce(array_agg(id), '{}') INTO held FROM changed;
    PERFORM fm_follow(held, cardinality(held) = cardinality(ids), history_ids, history_firsts, history_ats,
        history_events, wake_ids, wake_dues, await_ids, await_names);
    RETURN held;
END $$;

-- Stores new executions whose ids are free, and writes what belongs to them; says which. An id occurs once.
CREATE FUNCTION fm_start(
    ids uuid[], versions bigint[], statuses text[], steps text[], reasons text[], errors text[],
    updated bigint[], ended bigint[], tasks bigint[], attempts bigint[], pools text[], scheduled bigint[],
    states text[], contexts text[], outputs text[],
    parents uuid[], joins bigint[], indexes bigint[], abandoned boolean[], roots uuid[], created bigint[],
    flows text[], flow_versions text[], tenants text[], labelled text[],
    history_ids uuid[], history_firsts bigint[], history_ats bigint[], history_events text[],
    wake_ids uuid[], wake_dues bigint[], await_ids uuid[], await_names text[]
) RETURNS uuid[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
AS $$
DECLARE
    stored uuid[];
BEGIN
    WITH made AS (
        INSERT INTO fm_executions (id, version, status, current_step, waiting_reason, error_code, updated_at, ended_at,
            task_out, task_number, task_attempt, task_pool, task_scheduled_at, state, context, output, parent_id,
            join_no, child_index, abandon, root_id, created_at, flow_id, flow_version, tenant_id, labels)
        SELECT new.id, new.version, new.status, new.step, new.reason, new.error, new.updated, new.ended,
            new.task IS NOT NULL, new.task, new.attempt, new.pool, new.scheduled, new.state, new.context, new.output,
            new.parent, new.join_no, new.child_index, new.abandon, new.root, new.created, new.flow, new.flow_version,
            new.tenant, new.labels::jsonb
        FROM unnest(ids, versions, statuses, steps, reasons, errors, updated, ended, tasks, attempts, pools, scheduled,
            states, contexts, outputs, parents, joins, indexes, abandoned, roots, created, flows, flow_versions,
            tenants, labelled)
            AS new (id, version, status, step, reason, error, updated, ended, task, attempt, pool, scheduled,
                state, context, output, parent, join_no, child_index, abandon, root, created, flow, flow_version,
                tenant, labels)
        ORDER BY new.id
        ON CONFLICT (id) DO NOTHING
        RETURNING fm_executions.id
    ) SELECT coalesce(array_agg(id), '{}') INTO stored FROM made;
    PERFORM fm_follow(stored, cardinality(stored) = cardinality(ids), history_ids, history_firsts, history_ats,
        history_events, wake_ids, wake_dues, await_ids, await_names);
    RETURN stored;
END $$;

-- Writes what belongs to the executions in `held`: history; the next wake and the event waited for, where null is none.
-- `whole` says that all of the batch are held. Separate statements, because a join of two results in one statement is planned
-- without knowing their sizes.
CREATE FUNCTION fm_follow(
    held uuid[], whole boolean,
    history_ids uuid[], history_firsts bigint[], history_ats bigint[], history_events text[],
    wake_ids uuid[], wake_dues bigint[], await_ids uuid[], await_names text[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF whole THEN
        INSERT INTO fm_history (execution_id, first_sequence, at, events)
        SELECT * FROM unnest(history_ids, history_firsts, history_ats, history_events);
    ELSIF cardinality(held) > 0 THEN
        INSERT INTO fm_history (execution_id, first_sequence, at, events)
        SELECT * FROM unnest(history_ids, history_firsts, history_ats, history_events) AS new (id, first, at, events)
        WHERE id = ANY (held);
    ELSE
        RETURN;
    END IF;
    IF cardinality(wake_ids) > 0 THEN
        INSERT INTO fm_timers (execution_id, due_at)
        SELECT id, due FROM unnest(wake_ids, wake_dues) AS new (id, due)
        WHERE due IS NOT NULL AND (whole OR id = ANY (held))
        ON CONFLICT (execution_id) DO UPDATE SET due_at = excluded.due_at;
        DELETE FROM fm_timers USING unnest(wake_ids, wake_dues) AS new (id, due)
        WHERE execution_id = new.id AND new.due IS NULL AND (whole OR new.id = ANY (held));
    END IF;
    IF cardinality(await_ids) > 0 THEN
        INSERT INTO fm_subscriptions (execution_id, name)
        SELECT id, name FROM unnest(await_ids, await_names) AS new (id, name)
        WHERE name IS NOT NULL AND (whole OR id = ANY (held))
        ON CONFLICT (execution_id) DO UPDATE SET name = excluded.name;
        DELETE FROM fm_subscriptions USING unnest(await_ids, await_names) AS new (id, name)
        WHERE execution_id = new.id AND new.name IS NULL AND (whole OR new.id = ANY (held));
    END IF;
END $$;

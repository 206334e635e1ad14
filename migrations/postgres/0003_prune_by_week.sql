-- Why: retention. The history of executions that are gone goes by dropping the partitions of their weeks; until then no answer
-- shows it (history_read asks for the execution). Ids are never used again, so nothing meets it.

-- The smallest id of version 7 that an execution made at the instant can have.
CREATE FUNCTION fm_first_id(millis bigint) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT (lpad(to_hex(greatest(millis, 0)), 12, '0') || repeat('0', 20))::uuid
$$;

-- The partitions of weeks.
CREATE VIEW fm_history_weeks AS
SELECT child.relname AS name, (bound.match)[1]::uuid AS first_id, (bound.match)[2]::uuid AS next_id
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
CROSS JOIN regexp_match(pg_get_expr(child.relpartbound, child.oid), 'FROM \(''(.*)''\) TO \(''(.*)''\)') AS bound (match)
WHERE inhparent = 'fm_history'::regclass AND bound.match IS NOT NULL;

-- Makes the partitions of this week and of `weeks` more. What cannot be made at once (a lock is held, or the default partition
-- has rows of that week, or the user may not) is left for the next time. Says how many were made.
CREATE FUNCTION fm_prepare_history(weeks int) RETURNS int LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    week constant bigint := 7 * 24 * 3600 * 1000;
    first bigint := floor(extract(epoch FROM clock_timestamp()) * 1000 / week) * week;
    start bigint;
    made int := 0;
    name text;
BEGIN
    -- One at a time; the others need not wait, because the work is done then.
    IF NOT pg_try_advisory_xact_lock(hashtext('fm_prepare_history')) THEN
        RETURN 0;
    END IF;
    FOR ahead IN 0 .. weeks LOOP
        start := first + ahead * week;
        name := 'fm_history_' || to_char(to_timestamp(start / 1000) AT TIME ZONE 'UTC', 'YYYYMMDD');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE %I (LIKE fm_history INCLUDING ALL)', name);
            EXECUTE format('ALTER TABLE fm_history ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                name, fm_first_id(start), fm_first_id(start + week));
            made := made + 1;
        EXCEPTION WHEN check_violation OR lock_not_available OR insufficient_privilege THEN
            NULL;
        END;
    END LOOP;
    RETURN made;
END $$;

-- Of the weeks before `ended_before`: drops those of which no execution is left, and deletes at most `max` rows of executions
-- that are gone from those that must stay for others. A partition that is locked is left for the next time.
CREATE FUNCTION fm_retire_history(ended_before bigint, max bigint) RETURNS void LANGUAGE plpgsql
SET lock_timeout = '500ms' AS $$
DECLARE
    old record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('fm_prepare_history')) THEN
        RETURN;
    END IF;
    FOR old IN SELECT * FROM fm_history_weeks WHERE next_id <= fm_first_id(ended_before) ORDER BY first_id LOOP
        IF EXISTS (SELECT 1 FROM fm_executions WHERE id >= old.first_id AND id < old.next_id) THEN
            DELETE FROM fm_history WHERE (execution_id, first_sequence) IN (
                SELECT execution_id, first_sequence FROM fm_history AS kept
                WHERE execution_id >= old.first_id AND execution_id < old.next_id
                  AND NOT EXISTS (SELECT 1 FROM fm_executions WHERE fm_executions.id = kept.execution_id)
                LIMIT max);
        ELSE
            BEGIN
                EXECUTE format('DROP TABLE %I', old.name);
            EXCEPTION WHEN lock_not_available OR insufficient_privilege THEN
                NULL;
            END;
        END IF;
    END LOOP;
END $$;

-- Deletes executions with all that belongs to them.
CREATE FUNCTION fm_forget(gone uuid[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    deleted bigint;
BEGIN
    IF cardinality(gone) = 0 THEN
        RETURN 0;
    END IF;
    DELETE FROM fm_history_default WHERE execution_id = ANY (gone);
    DELETE FROM fm_timers WHERE execution_id = ANY (gone);
    DELETE FROM fm_subscriptions WHERE execution_id = ANY (gone);
    DELETE FROM fm_joins WHERE parent_id = ANY (gone);
    DELETE FROM fm_snapshots WHERE parent_id = ANY (gone);
    DELETE FROM fm_budgets WHERE root_id = ANY (gone);
    DELETE FROM fm_checkpoints WHERE execution_id = ANY (gone);
    DELETE FROM fm_failed_tasks WHERE execution_id = ANY (gone);
    DELETE FROM fm_executions WHERE id = ANY (gone);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

-- Deletes at most `max` executions of trees whose root ended before and of which nothing is alive: children first, a root once
-- its children are gone. Rows that somebody holds are left for the next time, so that this waits for nobody. Says how many.
CREATE FUNCTION fm_prune(ended_before bigint, max bigint) RETURNS bigint LANGUAGE plpgsql AS $$
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

-- Why: tenants have flows, events, webhooks and tables of their own. What is of none has the empty text, as it is part of keys;
-- all that was there before is of none. What belongs to an execution (history, jobs, failed tasks) has its tenant from there.

ALTER TABLE fm_flows ADD COLUMN tenant_id text NOT NULL DEFAULT '', DROP CONSTRAINT fm_flows_pkey,
    ADD PRIMARY KEY (tenant_id, flow_id, version);

ALTER TABLE fm_tables ADD COLUMN tenant_id text NOT NULL DEFAULT '', DROP CONSTRAINT fm_tables_pkey,
    ADD PRIMARY KEY (tenant_id, id);

ALTER TABLE fm_table_rows ADD COLUMN tenant_id text NOT NULL DEFAULT '',
    DROP CONSTRAINT fm_table_rows_table_id_id_key, ADD UNIQUE (tenant_id, table_id, id);
-- For table_rows_page.
DROP INDEX fm_table_rows_order;
CREATE INDEX fm_table_rows_order ON fm_table_rows (tenant_id, table_id, sequence);

ALTER TABLE fm_events ADD COLUMN tenant_id text NOT NULL DEFAULT '', DROP CONSTRAINT fm_events_id_key,
    ADD UNIQUE (tenant_id, id);
-- For events_list_tenant; where there are no tenants it is empty.
CREATE INDEX fm_events_tenant ON fm_events (tenant_id, at, sequence) WHERE tenant_id <> '';

ALTER TABLE fm_webhooks ADD COLUMN tenant_id text NOT NULL DEFAULT '';

-- Whoever waits already waits for events of its own tenant from now on.
ALTER TABLE fm_subscriptions ADD COLUMN tenant_id text NOT NULL DEFAULT '';
UPDATE fm_subscriptions SET tenant_id = execution.tenant_id FROM fm_executions AS execution
WHERE execution.id = execution_id AND execution.tenant_id IS NOT NULL;
-- For subscriptions_page.
DROP INDEX fm_subscriptions_name;
CREATE INDEX fm_subscriptions_name ON fm_subscriptions (tenant_id, name, execution_id);

-- As before, and a wait is of its execution's tenant.
CREATE OR REPLACE FUNCTION fm_follow(
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
        INSERT INTO fm_subscriptions (execution_id, name, tenant_id)
        SELECT id, name, coalesce((SELECT tenant_id FROM fm_executions AS execution WHERE execution.id = new.id), '')
        FROM unnest(await_ids, await_names) AS new (id, name)
        WHERE name IS NOT NULL AND (whole OR id = ANY (held))
        ON CONFLICT (execution_id) DO UPDATE SET name = excluded.name;
        DELETE FROM fm_subscriptions USING unnest(await_ids, await_names) AS new (id, name)
        WHERE execution_id = new.id AND new.name IS NULL AND (whole OR new.id = ANY (held));
    END IF;
END $$;

TABLE fm_api_keys
    id text NOT NULL
    name text NOT NULL
    hash text NOT NULL
    scopes text NOT NULL
    tenant_id text
    created_at bigint NOT NULL
    expires_at bigint
    revoked_at bigint
    last_used_at bigint
    fm_api_keys_pkey PRIMARY KEY (id)
    CREATE INDEX fm_api_keys_at ON public.fm_api_keys USING btree (created_at, id)
    CREATE UNIQUE INDEX fm_api_keys_pkey ON public.fm_api_keys USING btree (id)

TABLE fm_audit
    sequence bigint NOT NULL ALWAYS IDENTITY
    id text NOT NULL
    at bigint NOT NULL
    actor text NOT NULL
    tenant_id text
    method text NOT NULL
    route text NOT NULL
    target text NOT NULL
    status bigint NOT NULL
    request_id text NOT NULL
    place bigint
    hash text
    fm_audit_id_key UNIQUE (id)
    fm_audit_pkey PRIMARY KEY (sequence)
    sealed_as_a_whole CHECK (((place IS NULL) = (hash IS NULL)))
    CREATE INDEX fm_audit_tenant ON public.fm_audit USING btree (tenant_id, sequence) WHERE (tenant_id IS NOT NULL)
    CREATE INDEX fm_audit_unsealed ON public.fm_audit USING btree (sequence) WHERE (place IS NULL)
    CREATE UNIQUE INDEX fm_audit_id_key ON public.fm_audit USING btree (id)
    CREATE UNIQUE INDEX fm_audit_pkey ON public.fm_audit USING btree (sequence)
    CREATE UNIQUE INDEX fm_audit_place ON public.fm_audit USING btree (place) WHERE (place IS NOT NULL)

TABLE fm_budgets WITH fillfactor=50 autovacuum_vacuum_scale_factor=0.02 autovacuum_vacuum_threshold=1000 autovacuum_vacuum_cost_delay=0
    root_id uuid NOT NULL
    cost_usd double precision NOT NULL
    cost_tokens bigint NOT NULL
    cost_attempts bigint NOT NULL
    fm_budgets_pkey PRIMARY KEY (root_id)
    CREATE UNIQUE INDEX fm_budgets_pkey ON public.fm_budgets USING btree (root_id)

TABLE fm_checkpoints WITH fillfactor=70
    execution_id uuid NOT NULL
    task_number bigint NOT NULL
    id text NOT NULL
    saved_at bigint NOT NULL
    data text NOT NULL
    version bigint NOT NULL DEFAULT 1
    bytes bigint NOT NULL DEFAULT 0
    kind text NOT NULL DEFAULT 'json'::text
    content_type text NOT NULL DEFAULT 'application/json'::text
    object_key text
    fm_checkpoints_pkey PRIMARY KEY (execution_id, task_number)
    CREATE INDEX fm_checkpoints_object ON public.fm_checkpoints USING btree (object_key) WHERE (object_key IS NOT NULL)
    CREATE UNIQUE INDEX fm_checkpoints_pkey ON public.fm_checkpoints USING btree (execution_id, task_number)

TABLE fm_context_patches
    execution_id uuid NOT NULL
    task_number bigint NOT NULL
    attempt bigint NOT NULL
    sequence bigint NOT NULL
    bytes bigint NOT NULL
    changes text NOT NULL
    fm_context_patches_pkey PRIMARY KEY (execution_id, task_number, attempt, sequence)
    CREATE UNIQUE INDEX fm_context_patches_pkey ON public.fm_context_patches USING btree (execution_id, task_number, attempt, sequence)

TABLE fm_definitions
    hash text NOT NULL
    flow_id text NOT NULL
    version text NOT NULL
    status text NOT NULL
    definition text NOT NULL
    fm_definitions_pkey PRIMARY KEY (hash)
    status_known CHECK ((status = ANY (ARRAY['draft'::text, 'published'::text, 'archived'::text])))
    CREATE UNIQUE INDEX fm_definitions_pkey ON public.fm_definitions USING btree (hash)

TABLE fm_events
    sequence bigint NOT NULL ALWAYS IDENTITY
    id text NOT NULL
    name text NOT NULL
    source uuid
    at bigint NOT NULL
    delivered boolean NOT NULL DEFAULT false
    data text NOT NULL
    attributes text
    tenant_id text NOT NULL DEFAULT ''::text
    fm_events_pkey PRIMARY KEY (sequence)
    fm_events_tenant_id_id_key UNIQUE (tenant_id, id)
    CREATE INDEX fm_events_at ON public.fm_events USING btree (at, sequence)
    CREATE INDEX fm_events_name ON public.fm_events USING btree (name, at, sequence)
    CREATE INDEX fm_events_source ON public.fm_events USING btree (source, at, sequence) WHERE (source IS NOT NULL)
    CREATE INDEX fm_events_tenant ON public.fm_events USING btree (tenant_id, at, sequence) WHERE (tenant_id <> ''::text)
    CREATE INDEX fm_events_undelivered ON public.fm_events USING btree (at, sequence) WHERE (NOT delivered)
    CREATE UNIQUE INDEX fm_events_pkey ON public.fm_events USING btree (sequence)
    CREATE UNIQUE INDEX fm_events_tenant_id_id_key ON public.fm_events USING btree (tenant_id, id)

TABLE fm_executions WITH fillfactor=60 autovacuum_vacuum_scale_factor=0.02 autovacuum_vacuum_threshold=5000 autovacuum_analyze_scale_factor=0.05 autovacuum_vacuum_cost_delay=0
    id uuid NOT NULL
    parent_id uuid
    root_id uuid NOT NULL
    version bigint NOT NULL
    updated_at bigint NOT NULL
    ended_at bigint
    created_at bigint NOT NULL
    task_scheduled_at bigint
    task_number bigint
    task_attempt bigint
    join_no bigint
    child_index bigint
    task_out boolean NOT NULL
    abandon boolean NOT NULL
    status text NOT NULL
    current_step text NOT NULL
    waiting_reason text
    error_code text
    task_pool text
    flow_id text NOT NULL
    flow_version text NOT NULL
    tenant_id text
    labels jsonb NOT NULL
    state text NOT NULL
    output text
    context text NOT NULL
    ended_step text DEFAULT 
CASE
    WHEN (ended_at IS NOT NULL) THEN current_step
    ELSE NULL::text
END
    child_named_iff_parent CHECK ((((parent_id IS NULL) = (join_no IS NULL)) AND ((parent_id IS NULL) = (child_index IS NULL))))
    ended_iff_terminal CHECK (((ended_at IS NOT NULL) = (status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text]))))
    fm_executions_pkey PRIMARY KEY (id)
    output_only_when_completed CHECK (((output IS NULL) OR (status = 'completed'::text)))
    root_is_itself_iff_no_parent CHECK (((parent_id IS NULL) = (root_id = id)))
    status_known CHECK ((status = ANY (ARRAY['pending'::text, 'waiting_for_worker'::text, 'waiting'::text, 'paused'::text, 'incident'::text, 'cancelling'::text, 'compensating'::text, 'completed'::text, 'failed'::text, 'cancelled'::text])))
    task_named_iff_out CHECK (((task_out = (task_number IS NOT NULL)) AND (task_out = (task_attempt IS NOT NULL)) AND (task_out = (task_scheduled_at IS NOT NULL)) AND (task_out = (task_pool IS NOT NULL))))
    task_out_fits_status CHECK (
CASE status
    WHEN 'waiting_for_worker'::text THEN task_out
    WHEN 'paused'::text THEN true
    WHEN 'cancelling'::text THEN true
    WHEN 'compensating'::text THEN true
    ELSE (NOT task_out)
END)
    CREATE INDEX fm_executions_astray ON public.fm_executions USING btree (id) WHERE (NOT fm_times_in_order(id, created_at, ended_at))
    CREATE INDEX fm_executions_children ON public.fm_executions USING btree (parent_id, join_no, child_index) WHERE (parent_id IS NOT NULL)
    CREATE INDEX fm_executions_ended ON public.fm_executions USING btree (status, id) WHERE (ended_at IS NOT NULL)
    CREATE INDEX fm_executions_ended_at ON public.fm_executions USING btree (ended_at) WHERE (ended_at IS NOT NULL)
    CREATE INDEX fm_executions_ended_step ON public.fm_executions USING btree (ended_step, id) WHERE (ended_step IS NOT NULL)
    CREATE INDEX fm_executions_error ON public.fm_executions USING btree (error_code, id) WHERE (error_code IS NOT NULL)
    CREATE INDEX fm_executions_flow ON public.fm_executions USING btree (flow_id, id)
    CREATE INDEX fm_executions_labels ON public.fm_executions USING gin (labels jsonb_path_ops) WHERE (labels <> '{}'::jsonb)
    CREATE INDEX fm_executions_live ON public.fm_executions USING btree (id) WHERE (ended_at IS NULL)
    CREATE INDEX fm_executions_roots ON public.fm_executions USING btree (id) WHERE (parent_id IS NULL)
    CREATE INDEX fm_executions_task_out ON public.fm_executions USING btree (id) WHERE task_out
    CREATE INDEX fm_executions_tenant ON public.fm_executions USING btree (tenant_id, id) WHERE (tenant_id IS NOT NULL)
    CREATE INDEX fm_executions_tree ON public.fm_executions USING btree (root_id) WHERE (parent_id IS NOT NULL)
    CREATE UNIQUE INDEX fm_executions_pkey ON public.fm_executions USING btree (id)

TABLE fm_failed_tasks
    sequence bigint NOT NULL ALWAYS IDENTITY
    execution_id uuid NOT NULL
    at bigint NOT NULL
    task text NOT NULL
    task_number bigint
    handler_type text
    error_code text
    settled_as text
    settled_at bigint
    settled_by text
    reason text
    fm_failed_tasks_pkey PRIMARY KEY (sequence)
    settled_as_known CHECK ((settled_as = ANY (ARRAY['replayed'::text, 'discarded'::text])))
    settled_is_whole CHECK ((((settled_as IS NULL) = (settled_at IS NULL)) AND ((settled_as IS NULL) = (settled_by IS NULL))))
    CREATE INDEX fm_failed_tasks_execution ON public.fm_failed_tasks USING btree (execution_id)
    CREATE UNIQUE INDEX fm_failed_tasks_pkey ON public.fm_failed_tasks USING btree (sequence)

TABLE fm_flows
    flow_id text NOT NULL
    version text NOT NULL
    hash text NOT NULL
    status text NOT NULL
    published_at bigint NOT NULL
    tenant_id text NOT NULL DEFAULT ''::text
    fm_flows_hash_fkey FOREIGN KEY (hash) REFERENCES fm_definitions(hash)
    fm_flows_pkey PRIMARY KEY (tenant_id, flow_id, version)
    status_known CHECK ((status = ANY (ARRAY['draft'::text, 'published'::text, 'archived'::text])))
    CREATE UNIQUE INDEX fm_flows_pkey ON public.fm_flows USING btree (tenant_id, flow_id, version)
    CREATE TRIGGER fm_flows_deleted AFTER DELETE ON public.fm_flows REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fm_next_flows_generation()
    CREATE TRIGGER fm_flows_emptied AFTER TRUNCATE ON public.fm_flows FOR EACH STATEMENT EXECUTE FUNCTION fm_next_flows_generation()
    CREATE TRIGGER fm_flows_inserted AFTER INSERT ON public.fm_flows REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fm_next_flows_generation()
    CREATE TRIGGER fm_flows_updated AFTER UPDATE ON public.fm_flows REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION fm_next_flows_generation()

TABLE fm_flows_generation
    only_row boolean NOT NULL DEFAULT true
    generation bigint NOT NULL
    fm_flows_generation_only_row_check CHECK (only_row)
    fm_flows_generation_pkey PRIMARY KEY (only_row)
    CREATE UNIQUE INDEX fm_flows_generation_pkey ON public.fm_flows_generation USING btree (only_row)

TABLE fm_health WITH fillfactor=50
    id bigint NOT NULL
    checks bigint NOT NULL
    fm_health_pkey PRIMARY KEY (id)
    one_row CHECK ((id = 1))
    CREATE UNIQUE INDEX fm_health_pkey ON public.fm_health USING btree (id)

TABLE fm_history PARTITION BY RANGE (execution_id)
    execution_id uuid NOT NULL
    first_sequence bigint NOT NULL
    at bigint NOT NULL
    events text NOT NULL
    fm_history_pkey PRIMARY KEY (execution_id, first_sequence)
    CREATE UNIQUE INDEX fm_history_pkey ON ONLY public.fm_history USING btree (execution_id, first_sequence)

TABLE fm_history_default DEFAULT
    execution_id uuid NOT NULL
    first_sequence bigint NOT NULL
    at bigint NOT NULL
    events text NOT NULL
    fm_history_default_pkey PRIMARY KEY (execution_id, first_sequence)
    CREATE UNIQUE INDEX fm_history_default_pkey ON public.fm_history_default USING btree (execution_id, first_sequence)

TABLE fm_idempotency
    tenant_id text NOT NULL
    flow_id text NOT NULL
    key text NOT NULL
    execution_id uuid NOT NULL
    input_hash text NOT NULL
    expires_at bigint NOT NULL
    fm_idempotency_pkey PRIMARY KEY (tenant_id, flow_id, key)
    CREATE INDEX fm_idempotency_expires ON public.fm_idempotency USING btree (expires_at)
    CREATE UNIQUE INDEX fm_idempotency_pkey ON public.fm_idempotency USING btree (tenant_id, flow_id, key)

TABLE fm_jobs WITH fillfactor=70
    execution_id uuid NOT NULL
    task_number bigint NOT NULL
    attempt bigint NOT NULL
    status text NOT NULL
    step_id text NOT NULL
    handler_type text NOT NULL
    worker_id text
    created_at bigint NOT NULL
    claimed_at bigint
    started_at bigint
    completed_at bigint
    progress_percent double precision
    progress_message text
    last_heartbeat_at bigint
    checkpoint_id text
    timeout_ms bigint
    max_retries bigint
    retry_count bigint NOT NULL
    error text
    fm_jobs_pkey PRIMARY KEY (execution_id, task_number)
    CREATE INDEX fm_jobs_completed ON public.fm_jobs USING btree (completed_at) WHERE (completed_at IS NOT NULL)
    CREATE INDEX fm_jobs_heartbeat ON public.fm_jobs USING btree (last_heartbeat_at) WHERE (status = ANY (ARRAY['claimed'::text, 'running'::text]))
    CREATE INDEX fm_jobs_open ON public.fm_jobs USING btree (execution_id, task_number) WHERE (completed_at IS NULL)
    CREATE INDEX fm_jobs_status ON public.fm_jobs USING btree (status, handler_type)
    CREATE UNIQUE INDEX fm_jobs_pkey ON public.fm_jobs USING btree (execution_id, task_number)

TABLE fm_joins WITH fillfactor=50 autovacuum_vacuum_scale_factor=0 autovacuum_vacuum_threshold=1000 autovacuum_vacuum_cost_delay=0
    parent_id uuid NOT NULL
    join_no bigint NOT NULL
    total bigint NOT NULL
    max_live bigint NOT NULL
    spawned bigint NOT NULL
    succeeded bigint NOT NULL
    failed bigint NOT NULL
    stop_at_failed bigint
    stop_at_succeeded bigint
    cost_usd double precision NOT NULL
    cost_tokens bigint NOT NULL
    cost_attempts bigint NOT NULL
    closing boolean NOT NULL
    ended_within_spawned CHECK (((succeeded >= 0) AND (failed >= 0) AND ((succeeded + failed) <= spawned)))
    fm_joins_pkey PRIMARY KEY (parent_id, join_no)
    spawned_within_total CHECK (((spawned >= 0) AND (spawned <= total)))
    CREATE UNIQUE INDEX fm_joins_pkey ON public.fm_joins USING btree (parent_id, join_no)

TABLE fm_keys
    name text NOT NULL
    key bytea NOT NULL
    fm_keys_pkey PRIMARY KEY (name)
    CREATE UNIQUE INDEX fm_keys_pkey ON public.fm_keys USING btree (name)

TABLE fm_migrations
    version bigint NOT NULL
    description text NOT NULL
    installed_on timestamp with time zone NOT NULL DEFAULT now()
    success boolean NOT NULL
    checksum bytea NOT NULL
    execution_time bigint NOT NULL
    fm_migrations_pkey PRIMARY KEY (version)
    CREATE UNIQUE INDEX fm_migrations_pkey ON public.fm_migrations USING btree (version)

TABLE fm_objects
    key text NOT NULL
    used boolean NOT NULL
    at bigint NOT NULL
    fm_objects_pkey PRIMARY KEY (key)
    CREATE UNIQUE INDEX fm_objects_pkey ON public.fm_objects USING btree (key)

TABLE fm_operation_items
    operation_id text NOT NULL
    execution_id uuid NOT NULL
    code text
    fm_operation_items_operation_id_fkey FOREIGN KEY (operation_id) REFERENCES fm_operations(id) ON DELETE CASCADE
    fm_operation_items_pkey PRIMARY KEY (operation_id, execution_id)
    CREATE UNIQUE INDEX fm_operation_items_pkey ON public.fm_operation_items USING btree (operation_id, execution_id)

TABLE fm_operations WITH fillfactor=50
    id text NOT NULL
    created_at bigint NOT NULL
    ended_at bigint
    operation text NOT NULL
    tenant_id text NOT NULL DEFAULT ''::text
    handled bigint NOT NULL DEFAULT 0
    stopped_at bigint
    fm_operations_pkey PRIMARY KEY (id)
    CREATE INDEX fm_operations_ended ON public.fm_operations USING btree (ended_at) WHERE (ended_at IS NOT NULL)
    CREATE INDEX fm_operations_open ON public.fm_operations USING btree (created_at, id) WHERE (ended_at IS NULL)
    CREATE INDEX fm_operations_tenant ON public.fm_operations USING btree (tenant_id, id)
    CREATE UNIQUE INDEX fm_operations_pkey ON public.fm_operations USING btree (id)

TABLE fm_pauses
    kind text NOT NULL
    tenant_id text NOT NULL
    name text NOT NULL
    at bigint NOT NULL
    by text NOT NULL
    reason text
    fm_pauses_pkey PRIMARY KEY (kind, tenant_id, name)
    kind_known CHECK ((kind = ANY (ARRAY['pool'::text, 'flow'::text])))
    CREATE UNIQUE INDEX fm_pauses_pkey ON public.fm_pauses USING btree (kind, tenant_id, name)

TABLE fm_pools WITH fillfactor=50
    pool text NOT NULL
    server_id text NOT NULL
    generation bigint NOT NULL
    fm_pools_pkey PRIMARY KEY (pool)
    generation_is_positive CHECK ((generation >= 1))
    CREATE UNIQUE INDEX fm_pools_pkey ON public.fm_pools USING btree (pool)

TABLE fm_progress
    execution_id uuid NOT NULL
    task_number bigint NOT NULL
    at bigint NOT NULL
    attempt bigint NOT NULL
    percent double precision NOT NULL
    step_id text NOT NULL
    progress text NOT NULL
    fm_progress_pkey PRIMARY KEY (execution_id, task_number, at)
    CREATE INDEX fm_progress_at ON public.fm_progress USING btree (at)
    CREATE UNIQUE INDEX fm_progress_pkey ON public.fm_progress USING btree (execution_id, task_number, at)

TABLE fm_retention
    tenant_id text NOT NULL
    flow_id text NOT NULL
    completed_ms bigint
    failed_ms bigint
    at bigint NOT NULL
    by text NOT NULL
    fm_retention_pkey PRIMARY KEY (tenant_id, flow_id)
    says_something CHECK (((completed_ms IS NOT NULL) OR (failed_ms IS NOT NULL)))
    CREATE UNIQUE INDEX fm_retention_pkey ON public.fm_retention USING btree (tenant_id, flow_id)

TABLE fm_schema
    only_row boolean NOT NULL DEFAULT true
    readable_from bigint NOT NULL
    fm_schema_only_row_check CHECK (only_row)
    fm_schema_pkey PRIMARY KEY (only_row)
    CREATE UNIQUE INDEX fm_schema_pkey ON public.fm_schema USING btree (only_row)

TABLE fm_snapshots
    parent_id uuid NOT NULL
    join_no bigint NOT NULL
    outer_parent uuid
    outer_join bigint
    spec text NOT NULL
    context text NOT NULL
    items text NOT NULL
    fm_snapshots_pkey PRIMARY KEY (parent_id, join_no)
    outer_is_whole CHECK (((outer_parent IS NULL) = (outer_join IS NULL)))
    CREATE UNIQUE INDEX fm_snapshots_pkey ON public.fm_snapshots USING btree (parent_id, join_no)

TABLE fm_subscriptions WITH autovacuum_vacuum_scale_factor=0.02 autovacuum_vacuum_threshold=5000
    execution_id uuid NOT NULL
    name text NOT NULL
    tenant_id text NOT NULL DEFAULT ''::text
    fm_subscriptions_pkey PRIMARY KEY (execution_id)
    CREATE INDEX fm_subscriptions_name ON public.fm_subscriptions USING btree (tenant_id, name, execution_id)
    CREATE UNIQUE INDEX fm_subscriptions_pkey ON public.fm_subscriptions USING btree (execution_id)

TABLE fm_table_rows
    sequence bigint NOT NULL
    table_id text NOT NULL
    id text NOT NULL
    execution_id uuid NOT NULL
    pipe text
    at bigint NOT NULL
    row text NOT NULL
    tenant_id text NOT NULL DEFAULT ''::text
    fm_table_rows_pkey PRIMARY KEY (sequence)
    fm_table_rows_tenant_id_table_id_id_key UNIQUE (tenant_id, table_id, id)
    CREATE INDEX fm_table_rows_order ON public.fm_table_rows USING btree (tenant_id, table_id, sequence)
    CREATE UNIQUE INDEX fm_table_rows_pkey ON public.fm_table_rows USING btree (sequence)
    CREATE UNIQUE INDEX fm_table_rows_tenant_id_table_id_id_key ON public.fm_table_rows USING btree (tenant_id, table_id, id)

TABLE fm_tables
    id text NOT NULL
    columns text NOT NULL
    defined_at bigint NOT NULL
    tenant_id text NOT NULL DEFAULT ''::text
    fm_tables_pkey PRIMARY KEY (tenant_id, id)
    CREATE UNIQUE INDEX fm_tables_pkey ON public.fm_tables USING btree (tenant_id, id)

TABLE fm_task_logs
    execution_id uuid NOT NULL
    task_number bigint NOT NULL
    attempt bigint NOT NULL
    line bigint NOT NULL
    at bigint NOT NULL
    step_id text NOT NULL
    level text NOT NULL
    message text NOT NULL
    fm_task_logs_pkey PRIMARY KEY (execution_id, task_number, attempt, line)
    lines_count_from_one CHECK ((line >= 1))
    CREATE INDEX fm_task_logs_at ON public.fm_task_logs USING btree (at)
    CREATE UNIQUE INDEX fm_task_logs_pkey ON public.fm_task_logs USING btree (execution_id, task_number, attempt, line)

TABLE fm_timers WITH fillfactor=80 autovacuum_vacuum_scale_factor=0 autovacuum_vacuum_threshold=5000 autovacuum_vacuum_cost_delay=0
    execution_id uuid NOT NULL
    due_at bigint NOT NULL
    fm_timers_pkey PRIMARY KEY (execution_id)
    CREATE INDEX fm_timers_due ON public.fm_timers USING btree (due_at, execution_id)
    CREATE UNIQUE INDEX fm_timers_pkey ON public.fm_timers USING btree (execution_id)

TABLE fm_turns WITH fillfactor=50
    name text NOT NULL
    holder text NOT NULL
    until bigint NOT NULL
    fm_turns_pkey PRIMARY KEY (name)
    CREATE UNIQUE INDEX fm_turns_pkey ON public.fm_turns USING btree (name)

TABLE fm_webhook_deliveries
    webhook_id text NOT NULL
    event_id text NOT NULL
    event_name text NOT NULL
    status text NOT NULL
    attempts bigint NOT NULL
    next_at bigint NOT NULL
    created_at bigint NOT NULL
    last_at bigint
    last_status bigint
    last_error text
    duration_ms bigint
    fm_webhook_deliveries_pkey PRIMARY KEY (webhook_id, event_id)
    fm_webhook_deliveries_webhook_id_fkey FOREIGN KEY (webhook_id) REFERENCES fm_webhooks(id) ON DELETE CASCADE
    status_known CHECK ((status = ANY (ARRAY['pending'::text, 'delivered'::text, 'failed'::text])))
    CREATE INDEX fm_webhook_deliveries_age ON public.fm_webhook_deliveries USING btree (created_at)
    CREATE INDEX fm_webhook_deliveries_due ON public.fm_webhook_deliveries USING btree (webhook_id, next_at) WHERE (status = 'pending'::text)
    CREATE INDEX fm_webhook_deliveries_log ON public.fm_webhook_deliveries USING btree (webhook_id, created_at, event_id)
    CREATE UNIQUE INDEX fm_webhook_deliveries_pkey ON public.fm_webhook_deliveries USING btree (webhook_id, event_id)

TABLE fm_webhooks
    id text NOT NULL
    url text NOT NULL
    secret text NOT NULL
    patterns text NOT NULL
    description text NOT NULL
    active boolean NOT NULL
    deactivated text
    failing_since bigint
    created_at bigint NOT NULL
    tenant_id text NOT NULL DEFAULT ''::text
    fm_webhooks_pkey PRIMARY KEY (id)
    CREATE UNIQUE INDEX fm_webhooks_pkey ON public.fm_webhooks USING btree (id)

SEQUENCE fm_audit_sequence_seq

SEQUENCE fm_events_sequence_seq

SEQUENCE fm_failed_tasks_sequence_seq

SEQUENCE fm_table_rows_sequence

VIEW fm_history_weeks AS
 SELECT child.relname AS name,
    (bound.match[1])::uuid AS first_id,
    (bound.match[2])::uuid AS next_id
   FROM ((pg_inherits
     JOIN pg_class child ON ((child.oid = pg_inherits.inhrelid)))
     CROSS JOIN LATERAL regexp_match(pg_get_expr(child.relpartbound, child.oid), 'FROM \(''(.*)''\) TO \(''(.*)''\)'::text) bound(match))
  WHERE ((pg_inherits.inhparent = ('fm_history'::regclass)::oid) AND (bound.match IS NOT NULL));

CREATE OR REPLACE FUNCTION public.fm_delete_tree(the_root uuid, most bigint)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
DECLARE
    gone uuid[];
BEGIN
    PERFORM 1 FROM fm_executions
        WHERE id = the_root AND parent_id IS NULL AND ended_at IS NOT NULL FOR UPDATE;
    IF NOT FOUND OR EXISTS (SELECT 1 FROM fm_executions
        WHERE root_id = the_root AND parent_id IS NOT NULL AND ended_at IS NULL) THEN
        RETURN 0;
    END IF;
    SELECT coalesce(array_agg(id), '{}') INTO gone FROM (
        SELECT id FROM fm_executions WHERE root_id = the_root AND parent_id IS NOT NULL LIMIT most FOR UPDATE) AS found;
    IF cardinality(gone) = 0 THEN
        gone := ARRAY[the_root];
    END IF;
    DELETE FROM fm_history WHERE execution_id = ANY (gone);
    DELETE FROM fm_progress WHERE execution_id = ANY (gone);
    DELETE FROM fm_task_logs WHERE execution_id = ANY (gone);
    DELETE FROM fm_jobs WHERE execution_id = ANY (gone);
    DELETE FROM fm_context_patches WHERE execution_id = ANY (gone);
    DELETE FROM fm_events WHERE source = ANY (gone) AND delivered;
    RETURN fm_forget(gone);
END $function$


CREATE OR REPLACE FUNCTION public.fm_first_id(millis bigint)
 RETURNS uuid
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
AS $function$
    SELECT (lpad(to_hex(greatest(millis, 0)), 12, '0') || repeat('0', 20))::uuid
$function$


CREATE OR REPLACE FUNCTION public.fm_follow(held uuid[], whole boolean, history_ids uuid[], history_firsts bigint[], history_ats bigint[], history_events text[], wake_ids uuid[], wake_dues bigint[], await_ids uuid[], await_names text[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
END $function$


CREATE OR REPLACE FUNCTION public.fm_forget(gone uuid[])
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
END $function$


CREATE OR REPLACE FUNCTION public.fm_forget_whole(gone uuid[])
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
BEGIN
    DELETE FROM fm_history WHERE execution_id = ANY (gone);
    DELETE FROM fm_progress WHERE execution_id = ANY (gone);
    DELETE FROM fm_task_logs WHERE execution_id = ANY (gone);
    DELETE FROM fm_jobs WHERE execution_id = ANY (gone);
    DELETE FROM fm_context_patches WHERE execution_id = ANY (gone);
    RETURN fm_forget(gone);
END $function$


CREATE OR REPLACE FUNCTION public.fm_next_flows_generation()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    IF TG_OP IN ('INSERT', 'UPDATE', 'DELETE') THEN
        IF NOT EXISTS (SELECT FROM changed) THEN
            RETURN NULL;
        END IF;
    END IF;
    UPDATE fm_flows_generation
    SET generation = greatest(generation + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    RETURN NULL;
END $function$


CREATE OR REPLACE FUNCTION public.fm_prepare_history(weeks integer)
 RETURNS integer
 LANGUAGE plpgsql
 SET lock_timeout TO '500ms'
AS $function$
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
END $function$


CREATE OR REPLACE FUNCTION public.fm_prune(ended_before bigint, max bigint)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
END $function$


CREATE OR REPLACE FUNCTION public.fm_prune_flow(the_tenant text, the_flow text, completed_before bigint, failed_before bigint, max bigint)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
END $function$


CREATE OR REPLACE FUNCTION public.fm_retire_history(ended_before bigint, max bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET lock_timeout TO '500ms'
AS $function$
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
END $function$


CREATE OR REPLACE FUNCTION public.fm_start(ids uuid[], versions bigint[], statuses text[], steps text[], reasons text[], errors text[], updated bigint[], ended bigint[], tasks bigint[], attempts bigint[], pools text[], scheduled bigint[], states text[], contexts text[], outputs text[], parents uuid[], joins bigint[], indexes bigint[], abandoned boolean[], roots uuid[], created bigint[], flows text[], flow_versions text[], tenants text[], labelled text[], history_ids uuid[], history_firsts bigint[], history_ats bigint[], history_events text[], wake_ids uuid[], wake_dues bigint[], await_ids uuid[], await_names text[])
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_seqscan TO 'off'
AS $function$
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
END $function$


CREATE OR REPLACE FUNCTION public.fm_step(ids uuid[], expected bigint[], versions bigint[], statuses text[], steps text[], reasons text[], errors text[], updated bigint[], ended bigint[], tasks bigint[], attempts bigint[], pools text[], scheduled bigint[], states text[], contexts text[], outputs text[], history_ids uuid[], history_firsts bigint[], history_ats bigint[], history_events text[], wake_ids uuid[], wake_dues bigint[], await_ids uuid[], await_names text[])
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_seqscan TO 'off'
AS $function$
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
END $function$


CREATE OR REPLACE FUNCTION public.fm_times_in_order(id uuid, created_at bigint, ended_at bigint)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN ((created_at >= (((('x'::text || "left"(replace((id)::text, '-'::text, ''::text), 12)))::bit(48))::bigint - 10000)) AND (created_at <= (((('x'::text || "left"(replace((id)::text, '-'::text, ''::text), 12)))::bit(48))::bigint + 10000))) THEN COALESCE((ended_at >= (created_at - 10000)), true) ELSE false END


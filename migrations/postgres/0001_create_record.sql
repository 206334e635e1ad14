-- Why: the first schema of the record. Instants are milliseconds since the epoch; identifiers are UUIDs of version 7, so that they
-- sort by time. Text that is JSON is kept as text, so that it comes back as it went in.
--
-- Locks are taken in this order, and within a kind in the order of keys, so that two writers never wait for each other in a
-- circle: executions that change, fan-outs, idempotency keys, executions that are new, budgets, rows of tables. What belongs to
-- one execution (history, timers, subscriptions) is written only by who holds that execution. No foreign keys: each would
-- cost a look-up per row of each step; fm_prune deletes what belongs to an execution together with it.

CREATE TABLE fm_definitions (
    hash       text NOT NULL PRIMARY KEY,
    flow_id    text NOT NULL,
    version    text NOT NULL,
    status     text NOT NULL,
    definition text NOT NULL,
    CONSTRAINT status_known CHECK (status IN ('draft', 'published', 'archived'))
);

CREATE TABLE fm_flows (
    flow_id      text NOT NULL,
    version      text NOT NULL,
    hash         text NOT NULL REFERENCES fm_definitions (hash),
    status       text NOT NULL,
    published_at bigint NOT NULL,
    PRIMARY KEY (flow_id, version),
    CONSTRAINT status_known CHECK (status IN ('draft', 'published', 'archived'))
);

-- The hot table. An ordinary step changes no indexed column, and the pages keep room, so that the new version of a row stays
-- beside the old one and no index is written.
CREATE TABLE fm_executions (
    id                uuid NOT NULL PRIMARY KEY,
    parent_id         uuid,
    root_id           uuid NOT NULL,
    version           bigint NOT NULL,
    updated_at        bigint NOT NULL,
    ended_at          bigint,
    created_at        bigint NOT NULL,
    task_scheduled_at bigint,
    task_number       bigint,
    task_attempt      bigint,
    join_no           bigint,
    child_index       bigint,
    task_out          boolean NOT NULL,
    abandon           boolean NOT NULL,
    status            text NOT NULL,
    current_step      text NOT NULL,
    waiting_reason    text,
    error_code        text,
    task_pool         text,
    flow_id           text NOT NULL,
    flow_version      text NOT NULL,
    tenant_id         text,
    labels            jsonb NOT NULL,
    state             text NOT NULL,
    output            text,
    context           text NOT NULL,
    CONSTRAINT status_known CHECK (status IN ('pending', 'waiting_for_worker', 'waiting', 'paused', 'incident',
        'cancelling', 'compensating', 'completed', 'failed', 'cancelled')),
    CONSTRAINT ended_iff_terminal CHECK ((ended_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled'))),
    CONSTRAINT task_named_iff_out CHECK (task_out = (task_number IS NOT NULL)
        AND task_out = (task_attempt IS NOT NULL) AND task_out = (task_scheduled_at IS NOT NULL)
        AND task_out = (task_pool IS NOT NULL)),
    CONSTRAINT task_out_fits_status CHECK (CASE status
        WHEN 'waiting_for_worker' THEN task_out
        WHEN 'paused' THEN true
        WHEN 'cancelling' THEN true
        WHEN 'compensating' THEN true
        ELSE NOT task_out END),
    CONSTRAINT child_named_iff_parent CHECK ((parent_id IS NULL) = (join_no IS NULL)
        AND (parent_id IS NULL) = (child_index IS NULL)),
    CONSTRAINT root_is_itself_iff_no_parent CHECK ((parent_id IS NULL) = (root_id = id)),
    CONSTRAINT output_only_when_completed CHECK (output IS NULL OR status = 'completed')
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- For executions_tasks_out.
CREATE INDEX fm_executions_task_out ON fm_executions (id) WHERE task_out;
-- For executions_list_live and executions_count: the executions that have not ended.
CREATE INDEX fm_executions_live ON fm_executions (id) WHERE ended_at IS NULL;
-- For executions_list_ended and executions_count.
CREATE INDEX fm_executions_ended ON fm_executions (status, id) WHERE ended_at IS NOT NULL;
-- For executions_list_roots.
CREATE INDEX fm_executions_roots ON fm_executions (id) WHERE parent_id IS NULL;
-- For executions_list_flow.
CREATE INDEX fm_executions_flow ON fm_executions (flow_id, id);
-- For executions_list_children, children_page, children_live.
CREATE INDEX fm_executions_children ON fm_executions (parent_id, join_no, child_index) WHERE parent_id IS NOT NULL;
-- For fm_prune: a tree goes as a whole.
CREATE INDEX fm_executions_tree ON fm_executions (root_id) WHERE parent_id IS NOT NULL;
-- For fm_prune and checkpoints_prune.
CREATE INDEX fm_executions_ended_at ON fm_executions (ended_at) WHERE ended_at IS NOT NULL;

-- One row for each decision: events are read by execution, and written together. A partition holds the executions that were
-- made in one week (their ids say when), so that all of an execution's history is in one partition, and a week that has passed
-- its retention goes by dropping its partition. What no partition is made for is in the default one.
CREATE TABLE fm_history (
    execution_id   uuid NOT NULL,
    first_sequence bigint NOT NULL,
    at             bigint NOT NULL,
    events         text NOT NULL,
    PRIMARY KEY (execution_id, first_sequence)
) PARTITION BY RANGE (execution_id);
CREATE TABLE fm_history_default PARTITION OF fm_history DEFAULT;

CREATE TABLE fm_timers (
    execution_id uuid NOT NULL PRIMARY KEY,
    due_at       bigint NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
-- For timers_due and timers_next.
CREATE INDEX fm_timers_due ON fm_timers (due_at, execution_id);

CREATE TABLE fm_subscriptions (
    execution_id uuid NOT NULL PRIMARY KEY,
    name         text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
-- For subscriptions_page.
CREATE INDEX fm_subscriptions_name ON fm_subscriptions (name, execution_id);

-- The counters of fan-outs whose parents still wait for them.
CREATE TABLE fm_joins (
    parent_id         uuid NOT NULL,
    join_no           bigint NOT NULL,
    total             bigint NOT NULL,
    max_live          bigint NOT NULL,
    spawned           bigint NOT NULL,
    succeeded         bigint NOT NULL,
    failed            bigint NOT NULL,
    stop_at_failed    bigint,
    stop_at_succeeded bigint,
    cost_usd          double precision NOT NULL,
    cost_tokens       bigint NOT NULL,
    cost_attempts     bigint NOT NULL,
    closing           boolean NOT NULL,
    PRIMARY KEY (parent_id, join_no),
    CONSTRAINT spawned_within_total CHECK (spawned BETWEEN 0 AND total),
    CONSTRAINT ended_within_spawned CHECK (succeeded >= 0 AND failed >= 0 AND succeeded + failed <= spawned)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- What the children of a fan-out are made of. It is written once. What the parent itself saw outside its own context is
-- the snapshot of the fan-out that made the parent (outer_parent, outer_join), never a copy.
CREATE TABLE fm_snapshots (
    parent_id    uuid NOT NULL,
    join_no      bigint NOT NULL,
    outer_parent uuid,
    outer_join   bigint,
    spec         text NOT NULL,
    context      text NOT NULL,
    items        text NOT NULL,
    PRIMARY KEY (parent_id, join_no),
    CONSTRAINT outer_is_whole CHECK ((outer_parent IS NULL) = (outer_join IS NULL))
);

CREATE TABLE fm_events (
    sequence  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id        text NOT NULL UNIQUE,
    name      text NOT NULL,
    source    uuid,
    at        bigint NOT NULL,
    delivered boolean NOT NULL DEFAULT false,
    data      text NOT NULL
);
-- For events_undelivered.
CREATE INDEX fm_events_undelivered ON fm_events (at, sequence) WHERE NOT delivered;
-- For events_since.
CREATE INDEX fm_events_name ON fm_events (name, at, sequence);
-- For events_prune.
CREATE INDEX fm_events_delivered ON fm_events (at) WHERE delivered;

CREATE TABLE fm_idempotency (
    tenant_id    text NOT NULL,
    flow_id      text NOT NULL,
    key          text NOT NULL,
    execution_id uuid NOT NULL,
    input_hash   text NOT NULL,
    expires_at   bigint NOT NULL,
    PRIMARY KEY (tenant_id, flow_id, key)
);
-- For idempotency_prune.
CREATE INDEX fm_idempotency_expires ON fm_idempotency (expires_at);

CREATE TABLE fm_budgets (
    root_id       uuid NOT NULL PRIMARY KEY,
    cost_usd      double precision NOT NULL,
    cost_tokens   bigint NOT NULL,
    cost_attempts bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE fm_checkpoints (
    execution_id uuid NOT NULL,
    task_number  bigint NOT NULL,
    id           text NOT NULL,
    saved_at     bigint NOT NULL,
    data         text NOT NULL,
    PRIMARY KEY (execution_id, task_number)
) WITH (fillfactor = 70);

CREATE TABLE fm_failed_tasks (
    sequence     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id uuid NOT NULL,
    at           bigint NOT NULL,
    task         text NOT NULL
);
-- For fm_prune.
CREATE INDEX fm_failed_tasks_execution ON fm_failed_tasks (execution_id);

CREATE TABLE fm_tables (
    id         text NOT NULL PRIMARY KEY,
    columns    text NOT NULL,
    defined_at bigint NOT NULL
);

-- The sequence is drawn by table_rows_insert, which locks rows in the order of ids but numbers them in the order of insertion.
CREATE SEQUENCE fm_table_rows_sequence;
CREATE TABLE fm_table_rows (
    sequence     bigint NOT NULL PRIMARY KEY,
    table_id     text NOT NULL,
    id           text NOT NULL,
    execution_id uuid NOT NULL,
    pipe         text,
    at           bigint NOT NULL,
    row          text NOT NULL,
    UNIQUE (table_id, id)
);
ALTER SEQUENCE fm_table_rows_sequence OWNED BY fm_table_rows.sequence;
-- For table_rows_page.
CREATE INDEX fm_table_rows_order ON fm_table_rows (table_id, sequence);

CREATE TABLE fm_keys (
    name text NOT NULL PRIMARY KEY,
    key  bytea NOT NULL
);

-- Work that one engine at a time does: who does it, and until when that stands.
CREATE TABLE fm_turns (
    name   text NOT NULL PRIMARY KEY,
    holder text NOT NULL,
    until  bigint NOT NULL
) WITH (fillfactor = 50);

-- Raised whenever the server of a pool's queue is another than the one noted.
CREATE TABLE fm_pools (
    pool       text NOT NULL PRIMARY KEY,
    server_id  text NOT NULL,
    generation bigint NOT NULL,
    CONSTRAINT generation_is_positive CHECK (generation >= 1)
) WITH (fillfactor = 50);

-- One row that `check` writes, to know that the record can be written.
CREATE TABLE fm_health (
    id     bigint PRIMARY KEY,
    checks bigint NOT NULL,
    CONSTRAINT one_row CHECK (id = 1)
) WITH (fillfactor = 50);
INSERT INTO fm_health (id, checks) VALUES (1, 0);

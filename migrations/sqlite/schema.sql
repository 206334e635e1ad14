CREATE TABLE fm_api_keys (
    id           TEXT NOT NULL PRIMARY KEY,
    name         TEXT NOT NULL,
    -- SHA-256 of the secret; the secret itself is nowhere.
    hash         TEXT NOT NULL,
    scopes       TEXT NOT NULL,
    tenant_id    TEXT,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER
) STRICT;

CREATE INDEX fm_api_keys_at ON fm_api_keys (created_at, id);

CREATE TABLE fm_audit (
    sequence   INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    at         INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    tenant_id  TEXT,
    method     TEXT NOT NULL,
    route      TEXT NOT NULL,
    target     TEXT NOT NULL,
    status     INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    place      INTEGER,
    hash       TEXT,
    CONSTRAINT sealed_as_a_whole CHECK ((place IS NULL) = (hash IS NULL))
) STRICT;

CREATE UNIQUE INDEX fm_audit_place ON fm_audit (place) WHERE place IS NOT NULL;

CREATE INDEX fm_audit_tenant ON fm_audit (tenant_id, sequence) WHERE tenant_id IS NOT NULL;

CREATE INDEX fm_audit_unsealed ON fm_audit (sequence) WHERE place IS NULL;

CREATE TABLE fm_budgets (
    root_id       BLOB NOT NULL PRIMARY KEY REFERENCES fm_executions (id) ON DELETE CASCADE,
    cost_usd      REAL NOT NULL,
    cost_tokens   INTEGER NOT NULL,
    cost_attempts INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_checkpoints (
    execution_id BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    task_number  INTEGER NOT NULL,
    id           TEXT NOT NULL,
    saved_at     INTEGER NOT NULL,
    data         TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 1, bytes INTEGER NOT NULL DEFAULT 0, kind TEXT NOT NULL DEFAULT 'json', content_type TEXT NOT NULL DEFAULT 'application/json', object_key TEXT,
    PRIMARY KEY (execution_id, task_number)
) STRICT;

CREATE INDEX fm_checkpoints_object ON fm_checkpoints (object_key) WHERE object_key IS NOT NULL;

CREATE TABLE fm_context_patches (
    execution_id BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    task_number  INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    changes      TEXT NOT NULL,
    PRIMARY KEY (execution_id, task_number, attempt, sequence)
) STRICT;

CREATE TABLE fm_definitions (
    hash       TEXT NOT NULL PRIMARY KEY,
    flow_id    TEXT NOT NULL,
    version    TEXT NOT NULL,
    status     TEXT NOT NULL,
    definition TEXT NOT NULL,
    CONSTRAINT status_known CHECK (status IN ('draft', 'published', 'archived'))
) STRICT;

CREATE TABLE fm_events (
    sequence     INTEGER PRIMARY KEY,
    id           TEXT NOT NULL,
    name         TEXT NOT NULL,
    source       BLOB,
    at           INTEGER NOT NULL,
    delivered    INTEGER NOT NULL DEFAULT 0,
    data         TEXT NOT NULL,
    attributes   TEXT,
    tenant_id    TEXT NOT NULL DEFAULT '',
    UNIQUE (tenant_id, id),
    CONSTRAINT delivered_is_bool CHECK (delivered IN (0, 1))
) STRICT;

CREATE INDEX fm_events_at ON fm_events (at, sequence);

CREATE INDEX fm_events_name ON fm_events (name, at, sequence);

CREATE INDEX fm_events_source ON fm_events (source, at, sequence) WHERE source IS NOT NULL;

CREATE INDEX fm_events_tenant ON fm_events (tenant_id, at, sequence) WHERE tenant_id <> '';

CREATE INDEX fm_events_undelivered ON fm_events (at, sequence) WHERE delivered = 0;

CREATE TABLE fm_executions (
    id                BLOB NOT NULL PRIMARY KEY,
    version           INTEGER NOT NULL,
    status            TEXT NOT NULL,
    updated_at        INTEGER NOT NULL,
    ended_at          INTEGER,
    task_out          INTEGER NOT NULL,
    task_number       INTEGER,
    task_attempt      INTEGER,
    task_scheduled_at INTEGER,
    parent_id         BLOB,
    join_no           INTEGER,
    child_index       INTEGER,
    abandon           INTEGER NOT NULL,
    root_id           BLOB NOT NULL,
    created_at        INTEGER NOT NULL,
    flow_id           TEXT NOT NULL,
    flow_version      TEXT NOT NULL,
    current_step      TEXT NOT NULL,
    waiting_reason    TEXT,
    error_code        TEXT,
    tenant_id         TEXT,
    labels            TEXT NOT NULL,
    state             TEXT NOT NULL,
    output            TEXT,
    context           TEXT NOT NULL,
    CONSTRAINT id_is_uuid CHECK (length(id) = 16),
    CONSTRAINT status_known CHECK (status IN ('pending', 'waiting_for_worker', 'waiting', 'paused', 'incident',
        'cancelling', 'compensating', 'completed', 'failed', 'cancelled')),
    CONSTRAINT ended_iff_terminal CHECK ((ended_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled'))),
    CONSTRAINT task_out_is_bool CHECK (task_out IN (0, 1)),
    CONSTRAINT task_named_iff_out CHECK ((task_out = 1) = (task_number IS NOT NULL)
        AND (task_out = 1) = (task_attempt IS NOT NULL) AND (task_out = 1) = (task_scheduled_at IS NOT NULL)),
    CONSTRAINT task_out_fits_status CHECK (CASE status
        WHEN 'waiting_for_worker' THEN task_out = 1
        WHEN 'paused' THEN 1
        WHEN 'cancelling' THEN 1
        WHEN 'compensating' THEN 1
        ELSE task_out = 0 END),
    CONSTRAINT child_named_iff_parent CHECK ((parent_id IS NULL) = (join_no IS NULL)
        AND (parent_id IS NULL) = (child_index IS NULL)),
    CONSTRAINT root_is_itself_iff_no_parent CHECK ((parent_id IS NULL) = (root_id = id)),
    CONSTRAINT abandon_is_bool CHECK (abandon IN (0, 1)),
    CONSTRAINT output_only_when_completed CHECK (output IS NULL OR status = 'completed')
) STRICT;

CREATE INDEX fm_executions_children ON fm_executions (parent_id, join_no, child_index) WHERE parent_id IS NOT NULL;

CREATE INDEX fm_executions_ended ON fm_executions (status, id) WHERE ended_at IS NOT NULL;

CREATE INDEX fm_executions_ended_at ON fm_executions (ended_at) WHERE ended_at IS NOT NULL;

CREATE INDEX fm_executions_ended_step ON fm_executions (current_step, id) WHERE ended_at IS NOT NULL;

CREATE INDEX fm_executions_error ON fm_executions (error_code, id) WHERE error_code IS NOT NULL;

CREATE INDEX fm_executions_flow ON fm_executions (flow_id, id);

CREATE INDEX fm_executions_live ON fm_executions (id) WHERE ended_at IS NULL;

CREATE INDEX fm_executions_roots ON fm_executions (id) WHERE parent_id IS NULL;

CREATE INDEX fm_executions_task_out ON fm_executions (id) WHERE task_out = 1;

CREATE INDEX fm_executions_tenant ON fm_executions (tenant_id, id) WHERE tenant_id IS NOT NULL;

CREATE INDEX fm_executions_tree ON fm_executions (root_id) WHERE parent_id IS NOT NULL;

CREATE TABLE fm_failed_tasks (
    sequence     INTEGER PRIMARY KEY,
    execution_id BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    at           INTEGER NOT NULL,
    task         TEXT NOT NULL
, task_number INTEGER, handler_type TEXT, error_code TEXT, settled_as TEXT, settled_at INTEGER, settled_by TEXT, reason TEXT) STRICT;

CREATE INDEX fm_failed_tasks_execution ON fm_failed_tasks (execution_id);

CREATE TABLE fm_flows (
    flow_id      TEXT NOT NULL,
    version      TEXT NOT NULL,
    hash         TEXT NOT NULL REFERENCES fm_definitions (hash),
    status       TEXT NOT NULL,
    published_at INTEGER NOT NULL,
    tenant_id    TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, flow_id, version),
    CONSTRAINT status_known CHECK (status IN ('draft', 'published', 'archived'))
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_health (
    id     INTEGER PRIMARY KEY,
    checks INTEGER NOT NULL,
    CONSTRAINT one_row CHECK (id = 1)
) STRICT;

CREATE TABLE fm_history (
    execution_id   BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    first_sequence INTEGER NOT NULL,
    at             INTEGER NOT NULL,
    events         TEXT NOT NULL,
    PRIMARY KEY (execution_id, first_sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_idempotency (
    tenant_id    TEXT NOT NULL,
    flow_id      TEXT NOT NULL,
    key          TEXT NOT NULL,
    execution_id BLOB NOT NULL,
    input_hash   TEXT NOT NULL,
    expires_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, flow_id, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX fm_idempotency_expires ON fm_idempotency (expires_at);

CREATE TABLE fm_jobs (
    execution_id      BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    task_number       INTEGER NOT NULL,
    attempt           INTEGER NOT NULL,
    status            TEXT NOT NULL,
    step_id           TEXT NOT NULL,
    handler_type      TEXT NOT NULL,
    worker_id         TEXT,
    created_at        INTEGER NOT NULL,
    claimed_at        INTEGER,
    started_at        INTEGER,
    completed_at      INTEGER,
    progress_percent  REAL,
    progress_message  TEXT,
    last_heartbeat_at INTEGER,
    checkpoint_id     TEXT,
    timeout_ms        INTEGER,
    max_retries       INTEGER,
    retry_count       INTEGER NOT NULL,
    error             TEXT,
    PRIMARY KEY (execution_id, task_number)
) STRICT;

CREATE INDEX fm_jobs_heartbeat ON fm_jobs (last_heartbeat_at) WHERE status IN ('claimed', 'running');

CREATE INDEX fm_jobs_open ON fm_jobs (execution_id, task_number) WHERE completed_at IS NULL;

CREATE INDEX fm_jobs_status ON fm_jobs (status, handler_type);

CREATE TABLE fm_joins (
    parent_id         BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    join_no           INTEGER NOT NULL,
    total             INTEGER NOT NULL,
    max_live          INTEGER NOT NULL,
    spawned           INTEGER NOT NULL,
    succeeded         INTEGER NOT NULL,
    failed            INTEGER NOT NULL,
    closing           INTEGER NOT NULL,
    stop_at_failed    INTEGER,
    stop_at_succeeded INTEGER,
    cost_usd          REAL NOT NULL,
    cost_tokens       INTEGER NOT NULL,
    cost_attempts     INTEGER NOT NULL,
    PRIMARY KEY (parent_id, join_no),
    CONSTRAINT closing_is_bool CHECK (closing IN (0, 1)),
    CONSTRAINT spawned_within_total CHECK (spawned BETWEEN 0 AND total),
    CONSTRAINT ended_within_spawned CHECK (succeeded >= 0 AND failed >= 0 AND succeeded + failed <= spawned)
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_keys (
    name TEXT NOT NULL PRIMARY KEY,
    key  BLOB NOT NULL
) STRICT;

CREATE TABLE fm_objects (
    key  TEXT NOT NULL PRIMARY KEY,
    used INTEGER NOT NULL,
    at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_operation_items (
    operation_id TEXT NOT NULL REFERENCES fm_operations (id) ON DELETE CASCADE,
    execution_id BLOB NOT NULL,
    code         TEXT,
    PRIMARY KEY (operation_id, execution_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_operations (
    id         TEXT NOT NULL PRIMARY KEY,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER,
    operation  TEXT NOT NULL
, tenant_id TEXT NOT NULL DEFAULT '', handled INTEGER NOT NULL DEFAULT 0, stopped_at INTEGER) STRICT;

CREATE INDEX fm_operations_ended ON fm_operations (ended_at) WHERE ended_at IS NOT NULL;

CREATE INDEX fm_operations_open ON fm_operations (created_at, id) WHERE ended_at IS NULL;

CREATE INDEX fm_operations_tenant ON fm_operations (tenant_id, id);

CREATE TABLE fm_pauses (
    kind      TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    name      TEXT NOT NULL,
    at        INTEGER NOT NULL,
    by        TEXT NOT NULL,
    reason    TEXT,
    PRIMARY KEY (kind, tenant_id, name),
    CONSTRAINT kind_known CHECK (kind IN ('pool', 'flow'))
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_pools (
    pool       TEXT NOT NULL PRIMARY KEY,
    generation INTEGER NOT NULL,
    server_id  TEXT NOT NULL,
    CONSTRAINT generation_counts_from_one CHECK (generation >= 1)
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_progress (
    execution_id BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    task_number  INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    step_id      TEXT NOT NULL,
    percent      REAL NOT NULL,
    progress     TEXT NOT NULL,
    PRIMARY KEY (execution_id, task_number, at)
) STRICT, WITHOUT ROWID;

CREATE INDEX fm_progress_at ON fm_progress (at);

CREATE TABLE fm_retention (
    tenant_id    TEXT NOT NULL,
    flow_id      TEXT NOT NULL,
    completed_ms INTEGER,
    failed_ms    INTEGER,
    at           INTEGER NOT NULL,
    by           TEXT NOT NULL,
    PRIMARY KEY (tenant_id, flow_id),
    CONSTRAINT says_something CHECK (completed_ms IS NOT NULL OR failed_ms IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_schema (
    only_row      INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    readable_from INTEGER NOT NULL
) STRICT;

CREATE TABLE fm_snapshots (
    parent_id    BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    join_no      INTEGER NOT NULL,
    outer_parent BLOB,
    outer_join   INTEGER,
    spec         TEXT NOT NULL,
    context      TEXT NOT NULL,
    items        TEXT NOT NULL,
    PRIMARY KEY (parent_id, join_no),
    CONSTRAINT outer_is_whole CHECK ((outer_parent IS NULL) = (outer_join IS NULL))
) STRICT;

CREATE TABLE fm_subscriptions (
    execution_id BLOB NOT NULL PRIMARY KEY REFERENCES fm_executions (id) ON DELETE CASCADE,
    name         TEXT NOT NULL
, tenant_id TEXT NOT NULL DEFAULT '') STRICT, WITHOUT ROWID;

CREATE INDEX fm_subscriptions_name ON fm_subscriptions (tenant_id, name, execution_id);

CREATE TABLE fm_table_rows (
    sequence     INTEGER PRIMARY KEY,
    table_id     TEXT NOT NULL,
    id           TEXT NOT NULL,
    execution_id BLOB NOT NULL,
    pipe         TEXT,
    at           INTEGER NOT NULL,
    row          TEXT NOT NULL,
    tenant_id    TEXT NOT NULL DEFAULT '',
    UNIQUE (tenant_id, table_id, id)
) STRICT;

CREATE INDEX fm_table_rows_order ON fm_table_rows (tenant_id, table_id, sequence);

CREATE TABLE fm_tables (
    id         TEXT NOT NULL,
    columns    TEXT NOT NULL,
    defined_at INTEGER NOT NULL,
    tenant_id  TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, id)
) STRICT;

CREATE TABLE fm_task_logs (
    execution_id BLOB NOT NULL REFERENCES fm_executions (id) ON DELETE CASCADE,
    task_number  INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    line         INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    step_id      TEXT NOT NULL,
    level        TEXT NOT NULL,
    message      TEXT NOT NULL,
    PRIMARY KEY (execution_id, task_number, attempt, line),
    CONSTRAINT lines_count_from_one CHECK (line >= 1)
) STRICT, WITHOUT ROWID;

CREATE INDEX fm_task_logs_at ON fm_task_logs (at);

CREATE TABLE fm_timers (
    execution_id BLOB NOT NULL PRIMARY KEY REFERENCES fm_executions (id) ON DELETE CASCADE,
    due_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX fm_timers_due ON fm_timers (due_at, execution_id);

CREATE TABLE fm_turns (
    name   TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE fm_webhook_deliveries (
    webhook_id  TEXT NOT NULL REFERENCES fm_webhooks (id) ON DELETE CASCADE,
    event_id    TEXT NOT NULL,
    event_name  TEXT NOT NULL,
    status      TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    next_at     INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    last_at     INTEGER,
    last_status INTEGER,
    last_error  TEXT,
    duration_ms INTEGER,
    PRIMARY KEY (webhook_id, event_id),
    CONSTRAINT status_known CHECK (status IN ('pending', 'delivered', 'failed'))
) STRICT, WITHOUT ROWID;

CREATE INDEX fm_webhook_deliveries_age ON fm_webhook_deliveries (created_at);

CREATE INDEX fm_webhook_deliveries_due ON fm_webhook_deliveries (webhook_id, next_at) WHERE status = 'pending';

CREATE INDEX fm_webhook_deliveries_log ON fm_webhook_deliveries (webhook_id, created_at, event_id);

CREATE TABLE fm_webhooks (
    id            TEXT NOT NULL PRIMARY KEY,
    url           TEXT NOT NULL,
    secret        TEXT NOT NULL,
    patterns      TEXT NOT NULL,
    description   TEXT NOT NULL,
    active        INTEGER NOT NULL,
    deactivated   TEXT,
    failing_since INTEGER,
    created_at    INTEGER NOT NULL, tenant_id TEXT NOT NULL DEFAULT '',
    CONSTRAINT active_is_bool CHECK (active IN (0, 1))
) STRICT;


-- Why: tenants have flows, events, webhooks and tables of their own. What is of none has the empty text, as it is part of keys;
-- all that was there before is of none. What belongs to an execution (history, jobs, failed tasks) has its tenant from there.

ALTER TABLE fm_flows RENAME TO fm_flows_before;
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
INSERT INTO fm_flows SELECT flow_id, version, hash, status, published_at, '' FROM fm_flows_before;
DROP TABLE fm_flows_before;

ALTER TABLE fm_tables RENAME TO fm_tables_before;
CREATE TABLE fm_tables (
    id         TEXT NOT NULL,
    columns    TEXT NOT NULL,
    defined_at INTEGER NOT NULL,
    tenant_id  TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, id)
) STRICT;
INSERT INTO fm_tables SELECT id, columns, defined_at, '' FROM fm_tables_before;
DROP TABLE fm_tables_before;

ALTER TABLE fm_table_rows RENAME TO fm_table_rows_before;
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
INSERT INTO fm_table_rows SELECT sequence, table_id, id, execution_id, pipe, at, row, '' FROM fm_table_rows_before;
DROP TABLE fm_table_rows_before;
-- For table_rows_page.
CREATE INDEX fm_table_rows_order ON fm_table_rows (tenant_id, table_id, sequence);

ALTER TABLE fm_events RENAME TO fm_events_before;
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
INSERT INTO fm_events SELECT sequence, id, name, source, at, delivered, data, attributes, '' FROM fm_events_before;
DROP TABLE fm_events_before;
-- For events_undelivered.
CREATE INDEX fm_events_undelivered ON fm_events (at, sequence) WHERE delivered = 0;
-- For events_since and events_list_name.
CREATE INDEX fm_events_name ON fm_events (name, at, sequence);
-- For events_list_all and events_prune.
CREATE INDEX fm_events_at ON fm_events (at, sequence);
-- For events_list_source.
CREATE INDEX fm_events_source ON fm_events (source, at, sequence) WHERE source IS NOT NULL;
-- For events_list_tenant; where there are no tenants it is empty.
CREATE INDEX fm_events_tenant ON fm_events (tenant_id, at, sequence) WHERE tenant_id <> '';

ALTER TABLE fm_webhooks ADD COLUMN tenant_id TEXT NOT NULL DEFAULT '';

-- Whoever waits already waits for events of its own tenant from now on.
ALTER TABLE fm_subscriptions ADD COLUMN tenant_id TEXT NOT NULL DEFAULT '';
UPDATE fm_subscriptions SET tenant_id = execution.tenant_id FROM fm_executions AS execution
WHERE execution.id = execution_id AND execution.tenant_id IS NOT NULL;
-- For subscriptions_page.
DROP INDEX fm_subscriptions_name;
CREATE INDEX fm_subscriptions_name ON fm_subscriptions (tenant_id, name, execution_id);

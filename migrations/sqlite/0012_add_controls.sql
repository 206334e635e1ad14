-- Why: parked tasks are looked for and settled, queues and flows are paused, and operations on many executions are carried out
-- in the background.

ALTER TABLE fm_failed_tasks ADD COLUMN task_number INTEGER;
ALTER TABLE fm_failed_tasks ADD COLUMN handler_type TEXT;
ALTER TABLE fm_failed_tasks ADD COLUMN error_code TEXT;
ALTER TABLE fm_failed_tasks ADD COLUMN settled_as TEXT;
ALTER TABLE fm_failed_tasks ADD COLUMN settled_at INTEGER;
ALTER TABLE fm_failed_tasks ADD COLUMN settled_by TEXT;
ALTER TABLE fm_failed_tasks ADD COLUMN reason TEXT;
UPDATE fm_failed_tasks SET
    task_number = json_extract(task, '$.run.task'),
    handler_type = json_extract(task, '$.handlerType'),
    error_code = json_extract(task, '$.error.code')
WHERE json_valid(task);

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

CREATE TABLE fm_operations (
    id         TEXT NOT NULL PRIMARY KEY,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER,
    operation  TEXT NOT NULL
) STRICT;
CREATE INDEX fm_operations_open ON fm_operations (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX fm_operations_ended ON fm_operations (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE fm_operation_items (
    operation_id TEXT NOT NULL REFERENCES fm_operations (id) ON DELETE CASCADE,
    execution_id BLOB NOT NULL,
    code         TEXT,
    PRIMARY KEY (operation_id, execution_id)
) STRICT, WITHOUT ROWID;

-- Why: operations on many executions are listed by tenant, stopped while an engine carries them out, and never moved back by
-- an engine that was slow. Flows say how long their executions are kept.

ALTER TABLE fm_operations ADD COLUMN tenant_id TEXT NOT NULL DEFAULT '';
ALTER TABLE fm_operations ADD COLUMN handled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fm_operations ADD COLUMN stopped_at INTEGER;
CREATE INDEX fm_operations_tenant ON fm_operations (tenant_id, id);

-- How long the executions of a flow are kept, where that is not the default: milliseconds after their end.
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

-- Why: operations on many executions are listed by tenant, stopped while an engine carries them out, and never moved back by
-- an engine that was slow.

ALTER TABLE fm_operations ADD COLUMN tenant_id TEXT NOT NULL DEFAULT '';
ALTER TABLE fm_operations ADD COLUMN handled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fm_operations ADD COLUMN stopped_at INTEGER;
CREATE INDEX fm_operations_tenant ON fm_operations (tenant_id, id);

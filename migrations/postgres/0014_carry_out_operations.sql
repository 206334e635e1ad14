-- Why: operations on many executions are listed by tenant, stopped while an engine carries them out, and never moved back by
-- an engine that was slow.

ALTER TABLE fm_operations
    ADD COLUMN tenant_id  text NOT NULL DEFAULT '',
    ADD COLUMN handled    bigint NOT NULL DEFAULT 0,
    ADD COLUMN stopped_at bigint;
-- For operations_list_tenant.
CREATE INDEX fm_operations_tenant ON fm_operations (tenant_id, id);

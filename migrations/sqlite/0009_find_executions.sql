-- Why: lists and counts by tenant, error and step are answered by an index each. No row is in one of them while its execution
-- takes its steps, but in the tenant's, which never changes.

-- For executions_list_tenant.
CREATE INDEX fm_executions_tenant ON fm_executions (tenant_id, id) WHERE tenant_id IS NOT NULL;
-- For executions_list_error.
CREATE INDEX fm_executions_error ON fm_executions (error_code, id) WHERE error_code IS NOT NULL;
-- For executions_list_step.
CREATE INDEX fm_executions_ended_step ON fm_executions (current_step, id) WHERE ended_at IS NOT NULL;

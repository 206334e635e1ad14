-- Why: keys for the HTTP API, and the audit of what was changed through it.

CREATE TABLE fm_api_keys (
    id           text NOT NULL PRIMARY KEY,
    name         text NOT NULL,
    -- SHA-256 of the secret; the secret itself is nowhere.
    hash         text NOT NULL,
    scopes       text NOT NULL,
    tenant_id    text,
    created_at   bigint NOT NULL,
    expires_at   bigint,
    revoked_at   bigint,
    last_used_at bigint
);
-- For api_keys_list.
CREATE INDEX fm_api_keys_at ON fm_api_keys (created_at, id);

-- Rows are appended, and changed once: when they are sealed.
CREATE TABLE fm_audit (
    sequence   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         text NOT NULL UNIQUE,
    at         bigint NOT NULL,
    actor      text NOT NULL,
    tenant_id  text,
    method     text NOT NULL,
    route      text NOT NULL,
    target     text NOT NULL,
    status     bigint NOT NULL,
    request_id text NOT NULL,
    place      bigint,
    hash       text,
    CONSTRAINT sealed_as_a_whole CHECK ((place IS NULL) = (hash IS NULL))
);
-- For audit_chain, audit_head and audit_seal: no place is taken twice.
CREATE UNIQUE INDEX fm_audit_place ON fm_audit (place) WHERE place IS NOT NULL;
-- For audit_unsealed.
CREATE INDEX fm_audit_unsealed ON fm_audit (sequence) WHERE place IS NULL;
-- For audit_list of a tenant.
CREATE INDEX fm_audit_tenant ON fm_audit (tenant_id, sequence) WHERE tenant_id IS NOT NULL;

-- Why: keys for the HTTP API, and the audit of what was changed through it.

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
-- For api_keys_list.
CREATE INDEX fm_api_keys_at ON fm_api_keys (created_at, id);

-- Rows are appended, and changed once: when they are sealed.
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
-- For audit_chain, audit_head and audit_seal: no place is taken twice.
CREATE UNIQUE INDEX fm_audit_place ON fm_audit (place) WHERE place IS NOT NULL;
-- For audit_unsealed.
CREATE INDEX fm_audit_unsealed ON fm_audit (sequence) WHERE place IS NULL;
-- For audit_list of a tenant.
CREATE INDEX fm_audit_tenant ON fm_audit (tenant_id, sequence) WHERE tenant_id IS NOT NULL;

-- Why: events are listed, carry the attributes of CloudEvents, and go to webhooks with a log of deliveries.

ALTER TABLE fm_events ADD COLUMN attributes TEXT;

-- For events_list_all, and for events_prune in the place of an index of delivered events only: nearly all are.
DROP INDEX fm_events_delivered;
CREATE INDEX fm_events_at ON fm_events (at, sequence);
-- For events_list_source.
CREATE INDEX fm_events_source ON fm_events (source, at, sequence) WHERE source IS NOT NULL;

CREATE TABLE fm_webhooks (
    id            TEXT NOT NULL PRIMARY KEY,
    url           TEXT NOT NULL,
    secret        TEXT NOT NULL,
    patterns      TEXT NOT NULL,
    description   TEXT NOT NULL,
    active        INTEGER NOT NULL,
    deactivated   TEXT,
    failing_since INTEGER,
    created_at    INTEGER NOT NULL,
    CONSTRAINT active_is_bool CHECK (active IN (0, 1))
) STRICT;

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
-- For deliveries_claim and webhooks_due.
CREATE INDEX fm_webhook_deliveries_due ON fm_webhook_deliveries (webhook_id, next_at) WHERE status = 'pending';
-- For deliveries_page.
CREATE INDEX fm_webhook_deliveries_log ON fm_webhook_deliveries (webhook_id, created_at, event_id);
-- For deliveries_prune.
CREATE INDEX fm_webhook_deliveries_age ON fm_webhook_deliveries (created_at);

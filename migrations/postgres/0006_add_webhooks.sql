-- Why: events are listed, carry the attributes of CloudEvents, and go to webhooks with a log of deliveries.

ALTER TABLE fm_events ADD COLUMN attributes text;

-- For events_list_all, and for events_prune in the place of an index of delivered events only: nearly all are.
DROP INDEX fm_events_delivered;
CREATE INDEX fm_events_at ON fm_events (at, sequence);
-- For events_list_source.
CREATE INDEX fm_events_source ON fm_events (source, at, sequence) WHERE source IS NOT NULL;

CREATE TABLE fm_webhooks (
    id            text NOT NULL PRIMARY KEY,
    url           text NOT NULL,
    secret        text NOT NULL,
    patterns      text NOT NULL,
    description   text NOT NULL,
    active        boolean NOT NULL,
    deactivated   text,
    failing_since bigint,
    created_at    bigint NOT NULL
);

-- Rows change with every attempt, and the index of what is due with them.
CREATE TABLE fm_webhook_deliveries (
    webhook_id  text NOT NULL REFERENCES fm_webhooks (id) ON DELETE CASCADE,
    event_id    text NOT NULL,
    event_name  text NOT NULL,
    status      text NOT NULL,
    attempts    bigint NOT NULL,
    next_at     bigint NOT NULL,
    created_at  bigint NOT NULL,
    last_at     bigint,
    last_status bigint,
    last_error  text,
    duration_ms bigint,
    PRIMARY KEY (webhook_id, event_id),
    CONSTRAINT status_known CHECK (status IN ('pending', 'delivered', 'failed'))
);
-- For deliveries_claim and webhooks_due.
CREATE INDEX fm_webhook_deliveries_due ON fm_webhook_deliveries (webhook_id, next_at) WHERE status = 'pending';
-- For deliveries_page.
CREATE INDEX fm_webhook_deliveries_log ON fm_webhook_deliveries (webhook_id, created_at, event_id);
-- For deliveries_prune.
CREATE INDEX fm_webhook_deliveries_age ON fm_webhook_deliveries (created_at);

-- Why: checkpoints that are not JSON, and those that are too large for the record and therefore in the object store.

ALTER TABLE fm_checkpoints ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE fm_checkpoints ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fm_checkpoints ADD COLUMN kind TEXT NOT NULL DEFAULT 'json';
ALTER TABLE fm_checkpoints ADD COLUMN content_type TEXT NOT NULL DEFAULT 'application/json';
ALTER TABLE fm_checkpoints ADD COLUMN object_key TEXT;
UPDATE fm_checkpoints SET bytes = octet_length(data);
-- For objects_garbage.
CREATE INDEX fm_checkpoints_object ON fm_checkpoints (object_key) WHERE object_key IS NOT NULL;

-- Objects of the object store: registered before they are written, used from the commit of the first reference to them.
CREATE TABLE fm_objects (
    key  TEXT NOT NULL PRIMARY KEY,
    used INTEGER NOT NULL,
    at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Why: checkpoints that are not JSON, and those that are too large for the record and therefore in the object store.

ALTER TABLE fm_checkpoints
    ADD COLUMN version bigint NOT NULL DEFAULT 1,
    ADD COLUMN bytes bigint NOT NULL DEFAULT 0,
    ADD COLUMN kind text NOT NULL DEFAULT 'json',
    ADD COLUMN content_type text NOT NULL DEFAULT 'application/json',
    ADD COLUMN object_key text;
UPDATE fm_checkpoints SET bytes = octet_length(data);
-- For objects_garbage.
CREATE INDEX fm_checkpoints_object ON fm_checkpoints (object_key) WHERE object_key IS NOT NULL;

-- Objects of the object store: registered before they are written, used from the commit of the first reference to them.
CREATE TABLE fm_objects (
    key  text PRIMARY KEY,
    used boolean NOT NULL,
    at   bigint NOT NULL
);

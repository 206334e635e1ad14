-- Why: parked tasks are looked for and settled, queues and flows are paused, executions are deleted, and operations on many
-- executions are carried out in the background.

ALTER TABLE fm_failed_tasks
    ADD COLUMN task_number  bigint,
    ADD COLUMN handler_type text,
    ADD COLUMN error_code   text,
    ADD COLUMN settled_as   text,
    ADD COLUMN settled_at   bigint,
    ADD COLUMN settled_by   text,
    ADD COLUMN reason       text,
    ADD CONSTRAINT settled_as_known CHECK (settled_as IN ('replayed', 'discarded')),
    ADD CONSTRAINT settled_is_whole CHECK ((settled_as IS NULL) = (settled_at IS NULL)
        AND (settled_as IS NULL) = (settled_by IS NULL));
-- By text: a document may hold a zero character, which Postgres' JSON functions refuse.
UPDATE fm_failed_tasks SET
    task_number = (substring(task FROM '"run":\{[^{}]*"task":([0-9]+)'))::bigint,
    handler_type = substring(task FROM '"handlerType":"([^"\\]*)"'),
    error_code = substring(task FROM '"error":\{[^{}]*"code":"([^"\\]*)"');

CREATE TABLE fm_pauses (
    kind      text NOT NULL,
    tenant_id text NOT NULL,
    name      text NOT NULL,
    at        bigint NOT NULL,
    by        text NOT NULL,
    reason    text,
    PRIMARY KEY (kind, tenant_id, name),
    CONSTRAINT kind_known CHECK (kind IN ('pool', 'flow'))
);

CREATE TABLE fm_operations (
    id         text NOT NULL PRIMARY KEY,
    created_at bigint NOT NULL,
    ended_at   bigint,
    operation  text NOT NULL
) WITH (fillfactor = 50);
-- For operations_open.
CREATE INDEX fm_operations_open ON fm_operations (created_at, id) WHERE ended_at IS NULL;
-- For operations_forget.
CREATE INDEX fm_operations_ended ON fm_operations (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE fm_operation_items (
    operation_id text NOT NULL REFERENCES fm_operations (id) ON DELETE CASCADE,
    execution_id uuid NOT NULL,
    code         text,
    PRIMARY KEY (operation_id, execution_id)
);

-- Deletes at most `most` executions of a tree with all that belongs to them, their history at once: children first, the root
-- once it has none. Nothing while any of them has not ended. Says how many.
CREATE FUNCTION fm_delete_tree(the_root uuid, most bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    gone uuid[];
BEGIN
    PERFORM 1 FROM fm_executions
        WHERE id = the_root AND parent_id IS NULL AND ended_at IS NOT NULL FOR UPDATE;
    IF NOT FOUND OR EXISTS (SELECT 1 FROM fm_executions
        WHERE root_id = the_root AND parent_id IS NOT NULL AND ended_at IS NULL) THEN
        RETURN 0;
    END IF;
    SELECT coalesce(array_agg(id), '{}') INTO gone FROM (
        SELECT id FROM fm_executions WHERE root_id = the_root AND parent_id IS NOT NULL LIMIT most FOR UPDATE) AS found;
    IF cardinality(gone) = 0 THEN
        gone := ARRAY[the_root];
    END IF;
    DELETE FROM fm_history WHERE execution_id = ANY (gone);
    DELETE FROM fm_progress WHERE execution_id = ANY (gone);
    DELETE FROM fm_task_logs WHERE execution_id = ANY (gone);
    DELETE FROM fm_jobs WHERE execution_id = ANY (gone);
    DELETE FROM fm_context_patches WHERE execution_id = ANY (gone);
    DELETE FROM fm_events WHERE source = ANY (gone) AND delivered;
    RETURN fm_forget(gone);
END $$;

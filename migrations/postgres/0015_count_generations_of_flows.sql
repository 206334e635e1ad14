-- Why: the latest version of a flow is started without a look-up of its own, while no flow has changed since the last one. The
-- triggers notice engines of before too, which do not know of it.

-- The generation of the published flows: another one whenever one is published, archived, restored or deleted.
CREATE TABLE fm_flows_generation (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation bigint NOT NULL
);
INSERT INTO fm_flows_generation (generation) VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

-- Begins the next generation, if rows of fm_flows have changed. It is the microsecond of the change, or later, so that none comes
-- twice where the last ones were lost: on a server that was restored to an earlier moment, or a replica that took over.
CREATE FUNCTION fm_next_flows_generation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP IN ('INSERT', 'UPDATE', 'DELETE') THEN
        IF NOT EXISTS (SELECT FROM changed) THEN
            RETURN NULL;
        END IF;
    END IF;
    UPDATE fm_flows_generation
    SET generation = greatest(generation + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    RETURN NULL;
END $$;

CREATE TRIGGER fm_flows_inserted AFTER INSERT ON fm_flows REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION fm_next_flows_generation();
CREATE TRIGGER fm_flows_updated AFTER UPDATE ON fm_flows REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION fm_next_flows_generation();
CREATE TRIGGER fm_flows_deleted AFTER DELETE ON fm_flows REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION fm_next_flows_generation();
CREATE TRIGGER fm_flows_emptied AFTER TRUNCATE ON fm_flows
    FOR EACH STATEMENT EXECUTE FUNCTION fm_next_flows_generation();

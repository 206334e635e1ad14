-- Why: in a rolling update, engines of the release before run on the schema that the new release has made.

-- Programs whose schema version is below it do not run on this database. Written with every migration.
CREATE TABLE fm_schema (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    readable_from bigint NOT NULL
);

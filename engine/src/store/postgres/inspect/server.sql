-- What the server is, and how it is set up.
SELECT current_setting('server_version'), current_setting('server_version_num')::bigint,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean,
    current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean,
    current_setting('synchronous_commit'),
    current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean,
    current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND state LIKE 'idle in transaction%' AND state_change < now() - interval '1 minute'),
    pg_database_size(current_database())

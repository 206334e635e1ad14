-- Rows of each table of ours, living and dead, as autovacuum counts them. Partitions count for their table.
SELECT coalesce(parent.relname, stat.relname)::text, sum(stat.n_live_tup)::bigint, sum(stat.n_dead_tup)::bigint,
    sum(pg_total_relation_size(stat.relid))::bigint
FROM pg_stat_user_tables AS stat
LEFT JOIN pg_inherits ON inhrelid = stat.relid
LEFT JOIN pg_class AS parent ON parent.oid = inhparent
WHERE stat.relname LIKE 'fm\_%'
GROUP BY 1 ORDER BY 1

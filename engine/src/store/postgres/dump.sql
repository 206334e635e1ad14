-- The schema as one text, from the catalogue: the same on every server of a version, whatever made it. Without the partitions
-- of weeks, whose names are dates.
SELECT string_agg(line, E'\n' ORDER BY place, name COLLATE "C", part, line COLLATE "C") || E'\n' FROM (
    SELECT 1 AS place, relname AS name, 0 AS part, E'\nTABLE ' || relname
        || coalesce(' PARTITION BY ' || pg_get_partkeydef(oid), '')
        || coalesce(' ' || pg_get_expr(relpartbound, oid), '')
        || coalesce(' WITH ' || array_to_string(reloptions, ' '), '') AS line
    FROM pg_class WHERE relkind IN ('r', 'p')
    UNION ALL
    SELECT 1, relname, attnum, '    ' || attname || ' ' || format_type(atttypid, atttypmod)
        || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
        || CASE attidentity WHEN 'a' THEN ' ALWAYS IDENTITY' WHEN 'd' THEN ' DEFAULT IDENTITY' ELSE '' END
        || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '')
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 1, relname, 10000, '    ' || conname || ' ' || pg_get_constraintdef(pg_constraint.oid)
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid WHERE contype <> 'n'
    UNION ALL
    SELECT 1, tablename, 20000, '    ' || indexdef FROM pg_indexes WHERE schemaname = current_schema()
    UNION ALL
    SELECT 1, relname, 30000, '    ' || pg_get_triggerdef(pg_trigger.oid)
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid WHERE NOT tgisinternal
    UNION ALL
    SELECT 2, relname, 0, E'\nSEQUENCE ' || relname FROM pg_class WHERE relkind = 'S'
    UNION ALL
    SELECT 3, relname, 0, E'\nVIEW ' || relname || E' AS\n' || pg_get_viewdef(oid) FROM pg_class WHERE relkind = 'v'
    UNION ALL
    SELECT 4, proname, 0, E'\n' || pg_get_functiondef(oid) FROM pg_proc
) AS lines
WHERE name LIKE 'fm\_%' AND name !~ '^fm_history_[0-9]{8}'

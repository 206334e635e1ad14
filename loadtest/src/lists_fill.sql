-- $1 executions of the last 30 days up to $2, as they might be: 30 % are children, 1 % have not ended, 5 % have failed with one of 20
-- errors, 1 % were cancelled. 50 flows, some much more used than others, each with five versions, one after the other; ten tenants
-- and none; roots have labels with 100,000 values.
INSERT INTO fm_executions (id, version, status, updated_at, ended_at, task_out, abandon, root_id, created_at, flow_id, flow_version,
    current_step, waiting_reason, error_code, tenant_id, labels, state, context, parent_id, join_no, child_index)
SELECT id, 7, status, created + 60000, CASE WHEN ended THEN created + 60000 END, false, false, coalesce(parent, id), created,
    'flow-' || floor(50 * pick * pick), '1.' || n * 5 / ($1 + 1) || '.0',
    CASE WHEN n % 20011 = 0 THEN 'refund' ELSE 'step-' || n % 7 END,
    CASE WHEN NOT ended THEN CASE WHEN n % 300 = 50 THEN 'signal approved' ELSE 'timer until tomorrow' END END,
    CASE WHEN status = 'failed' THEN 'ERROR_' || n % 19 || CASE WHEN n % 5003 = 0 THEN '_RARE' ELSE '' END END,
    CASE WHEN n % 2 = 0 THEN 'tenant-' || n / 2 % 10 END,
    CASE WHEN parent IS NULL THEN jsonb_build_object('customer', 'customer-' || (hashint8(n) & 131071) % 100000,
        'region', (ARRAY['north', 'south', 'east', 'west'])[1 + n % 4]) ELSE '{}' END,
    repeat(md5(n::text), 12), repeat(md5(n::text), 6), parent,
    CASE WHEN parent IS NOT NULL THEN 1 END, CASE WHEN parent IS NOT NULL THEN n % 10 END
FROM (
    SELECT n, created, ended, (hashint8(n + 7) & 65535) / 65536.0 AS pick,
        CASE WHEN NOT ended THEN CASE WHEN n % 1000 = 50 THEN 'paused' ELSE 'waiting' END
            WHEN n % 20 = 3 THEN 'failed' WHEN n % 100 = 4 THEN 'cancelled' ELSE 'completed' END AS status,
        (lpad(to_hex(created), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid AS id,
        CASE WHEN n % 10 > 6 THEN (lpad(to_hex(parent_created), 12, '0') || '7' || substr(md5(parent_n::text), 1, 3) || '8'
            || substr(md5(parent_n::text), 4, 15))::uuid END AS parent
    FROM (
        SELECT n, n % 100 <> 50 AS ended, n - n % 10 AS parent_n,
            $2 - ($1 - n) * (2592000000 / $1) AS created,
            $2 - ($1 - (n - n % 10)) * (2592000000 / $1) AS parent_created
        FROM generate_series(1::bigint, $1::bigint) AS n
    ) AS numbered
) AS drawn

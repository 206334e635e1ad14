-- Executions that wait, each as the one with the id $1: their numbers are $2 to $3, which make their ids. Ids tell when an
-- execution was created, to within ten seconds.
WITH template AS (
    SELECT * FROM fm_executions WHERE id = $1
), made AS (
    SELECT (left(id, 12) || '7' || substr(mixed, 1, 3) || '8' || substr(mixed, 4, 15))::uuid AS id
    FROM (SELECT replace($1::text, '-', '') AS id, md5(n::text) AS mixed FROM generate_series($2::bigint, $3::bigint) AS n) AS drawn
), executions AS (
    INSERT INTO fm_executions (id, version, status, updated_at, task_out, abandon, root_id, created_at, flow_id, flow_version,
        current_step, waiting_reason, labels, state, context)
    SELECT made.id, version, status, updated_at, false, false, made.id, created_at, flow_id, flow_version, current_step,
        waiting_reason, labels, replace(state, replace($1::text, '-', ''), replace(made.id::text, '-', '')), context
    FROM template, made
), histories AS (
    INSERT INTO fm_history (execution_id, first_sequence, at, events)
    SELECT made.id, first_sequence, at, replace(events, replace($1::text, '-', ''), replace(made.id::text, '-', ''))
    FROM fm_history, made WHERE execution_id = $1
)
INSERT INTO fm_timers (execution_id, due_at) SELECT made.id, due_at FROM fm_timers, made WHERE execution_id = $1

WITH decided (v) AS MATERIALIZED (SELECT value FROM json_each(?1))
INSERT INTO fm_history (execution_id, first_sequence, at, events)
SELECT unhex(v ->> 'id'), v ->> 'first', v ->> 'at', v ->> 'events' FROM decided

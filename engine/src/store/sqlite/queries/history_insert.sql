INSERT INTO fm_history (execution_id, first_sequence, at, events)
SELECT unhex(v ->> 'id'), v ->> 'first', v ->> 'at', v ->> 'events' FROM (SELECT value AS v FROM jsonb_each(?1) LIMIT -1)

INSERT INTO fm_history (execution_id, first_sequence, at, events)
SELECT unhex(value ->> 'id'), value ->> 'first', value ->> 'at', value ->> 'events' FROM json_each(?1)

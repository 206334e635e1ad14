DELETE FROM fm_joins
WHERE (parent_id, join_no) IN (SELECT unhex(value ->> 'parent'), value ->> 'join' FROM json_each(?1))

INSERT INTO fm_failed_tasks (execution_id, at, task)
SELECT unhex(value ->> 'id'), value ->> 'at', value ->> 'task' FROM json_each(?1)

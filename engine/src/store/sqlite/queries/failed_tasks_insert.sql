INSERT INTO fm_failed_tasks (execution_id, at, task, task_number, handler_type, error_code)
SELECT unhex(value ->> 'id'), value ->> 'at', value ->> 'task', value ->> 'number', value ->> 'handler', value ->> 'code'
FROM json_each(?1)

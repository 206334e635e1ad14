-- Why: changes of a context that an attempt stages while it runs, until the commit of its result merges them. Those of executions
-- that are gone, like those of attempts that are over, go with the next pruning.

CREATE TABLE fm_context_patches (
    execution_id uuid NOT NULL,
    task_number  bigint NOT NULL,
    attempt      bigint NOT NULL,
    sequence     bigint NOT NULL,
    bytes        bigint NOT NULL,
    changes      text NOT NULL,
    PRIMARY KEY (execution_id, task_number, attempt, sequence)
);

//! The statements, as static text. Each file names its table and what it does.

macro_rules! queries {
    ($($name:ident = $file:literal),+ $(,)?) => {
        $(pub(super) const $name: &str = include_str!(concat!("queries/", $file, ".sql"));)+

        /// All statements, by the name of their file: a test prepares each.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$(($file, $name)),+];
    };
}

queries! {
    BUDGETS_LOAD = "budgets_load",
    BUDGETS_SET = "budgets_set",
    CHECKPOINTS_CLEAR = "checkpoints_clear",
    CHECKPOINTS_FENCE = "checkpoints_fence",
    CHECKPOINTS_GET = "checkpoints_get",
    CHECKPOINTS_NOTE = "checkpoints_note",
    CHECKPOINTS_PRUNE = "checkpoints_prune",
    CHECKPOINTS_SAVE = "checkpoints_save",
    CHILDREN_LIVE = "children_live",
    CHILDREN_PAGE = "children_page",
    DEFINITIONS_GET = "definitions_get",
    DEFINITIONS_PUT = "definitions_put",
    EVENTS_DELIVER = "events_deliver",
    EVENTS_INSERT = "events_insert",
    EVENTS_PRUNE = "events_prune",
    EVENTS_SINCE = "events_since",
    EVENTS_UNDELIVERED = "events_undelivered",
    EXECUTIONS_COUNT = "executions_count",
    EXECUTIONS_INSERT = "executions_insert",
    EXECUTIONS_KNOWN = "executions_known",
    EXECUTIONS_LIST_ALL = "executions_list_all",
    EXECUTIONS_LIST_CHILDREN = "executions_list_children",
    EXECUTIONS_LIST_ENDED = "executions_list_ended",
    EXECUTIONS_LIST_FLOW = "executions_list_flow",
    EXECUTIONS_LIST_LIVE = "executions_list_live",
    EXECUTIONS_LIST_ROOTS = "executions_list_roots",
    EXECUTIONS_LOAD = "executions_load",
    EXECUTIONS_PRUNE = "executions_prune",
    EXECUTIONS_STEP = "executions_step",
    EXECUTIONS_TASKS_OUT = "executions_tasks_out",
    EXECUTIONS_TURN = "executions_turn",
    FAILED_TASKS_INSERT = "failed_tasks_insert",
    FAILED_TASKS_PAGE = "failed_tasks_page",
    FLOWS_GET = "flows_get",
    FLOWS_INSERT = "flows_insert",
    FLOWS_LIST = "flows_list",
    HEALTH_WRITE = "health_write",
    HISTORY_INSERT = "history_insert",
    HISTORY_READ = "history_read",
    IDEMPOTENCY_FIND = "idempotency_find",
    IDEMPOTENCY_PRUNE = "idempotency_prune",
    IDEMPOTENCY_TAKE = "idempotency_take",
    JOINS_END = "joins_end",
    JOINS_GET = "joins_get",
    JOINS_LOAD = "joins_load",
    JOINS_PAGE = "joins_page",
    JOINS_SET = "joins_set",
    KEYS_GET = "keys_get",
    KEYS_MAKE = "keys_make",
    POOLS_GENERATION = "pools_generation",
    PROGRESS_CHILDREN = "progress_children",
    PROGRESS_LATEST = "progress_latest",
    PROGRESS_PAGE = "progress_page",
    PROGRESS_PRUNE = "progress_prune",
    PROGRESS_PUT = "progress_put",
    SNAPSHOTS_CHAIN = "snapshots_chain",
    SNAPSHOTS_INSERT = "snapshots_insert",
    SNAPSHOTS_SPEC = "snapshots_spec",
    SUBSCRIPTIONS_CLEAR = "subscriptions_clear",
    SUBSCRIPTIONS_PAGE = "subscriptions_page",
    SUBSCRIPTIONS_SET = "subscriptions_set",
    TABLE_ROWS_INSERT = "table_rows_insert",
    TABLE_ROWS_PAGE = "table_rows_page",
    TABLES_LIST = "tables_list",
    TABLES_SET = "tables_set",
    TASK_LOGS_PAGE = "task_logs_page",
    TASK_LOGS_PRUNE = "task_logs_prune",
    TASK_LOGS_PUT = "task_logs_put",
    TIMERS_CLEAR = "timers_clear",
    TIMERS_DUE = "timers_due",
    TIMERS_NEXT = "timers_next",
    TIMERS_SET = "timers_set",
    TURNS_TAKE = "turns_take",
}

/// Stores a whole batch, by the view and trigger of [`super::whole`]: a statement that only the connection which writes
/// knows.
pub(super) const BATCH_STORE: &str =
    "INSERT INTO fm_batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

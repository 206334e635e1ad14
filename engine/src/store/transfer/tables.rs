//! What both records have in common: every table with every column. A test compares this with both schemas.

/// What a column holds, and how each database spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    /// 16 bytes; a UUID.
    Id,
    /// A whole number.
    Integer,
    /// A number.
    Real,
    /// 0 or 1; false or true.
    Flag,
    /// Text, often JSON.
    Text,
    /// Bytes.
    Bytes,
    /// Not a column of SQLite: the pool of the task that is out, from the execution's state.
    Pool,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Column {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) kind: Kind,
}

/// A table.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Table {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) columns: &'static [Column],
    /// The sequence that numbers its rows in Postgres, and the column that it numbers.
    pub(in crate::store) numbered: Option<&'static str>,
}

const fn id(name: &'static str) -> Column {
    Column { name, kind: Kind::Id }
}

const fn integer(name: &'static str) -> Column {
    Column { name, kind: Kind::Integer }
}

const fn real(name: &'static str) -> Column {
    Column { name, kind: Kind::Real }
}

const fn flag(name: &'static str) -> Column {
    Column { name, kind: Kind::Flag }
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

const fn table(name: &'static str, columns: &'static [Column]) -> Table {
    Table { name, columns, numbered: None }
}

const fn numbered(name: &'static str, sequence: &'static str, columns: &'static [Column]) -> Table {
    Table { name, columns, numbered: Some(sequence) }
}

/// All tables that are carried over, in an order that keeps references whole.
pub(in crate::store) const TABLES: [Table; 29] = [
    table(
        "fm_definitions",
        &[text("hash"), text("flow_id"), text("version"), text("status"), text("definition")],
    ),
    table(
        "fm_flows",
        &[
            text("flow_id"),
            text("version"),
            text("hash"),
            text("status"),
            integer("published_at"),
            text("tenant_id"),
        ],
    ),
    table(
        "fm_executions",
        &[
            id("id"),
            id("parent_id"),
            id("root_id"),
            integer("version"),
            integer("updated_at"),
            integer("ended_at"),
            integer("created_at"),
            integer("task_scheduled_at"),
            integer("task_number"),
            integer("task_attempt"),
            integer("join_no"),
            integer("child_index"),
            flag("task_out"),
            flag("abandon"),
            text("status"),
            text("current_step"),
            text("waiting_reason"),
            text("error_code"),
            Column { name: "task_pool", kind: Kind::Pool },
            text("flow_id"),
            text("flow_version"),
            text("tenant_id"),
            text("labels"),
            text("state"),
            text("output"),
            text("context"),
        ],
    ),
    table("fm_history", &[id("execution_id"), integer("first_sequence"), integer("at"), text("events")]),
    table("fm_timers", &[id("execution_id"), integer("due_at")]),
    table("fm_subscriptions", &[id("execution_id"), text("name"), text("tenant_id")]),
    table(
        "fm_joins",
        &[
            id("parent_id"),
            integer("join_no"),
            integer("total"),
            integer("max_live"),
            integer("spawned"),
            integer("succeeded"),
            integer("failed"),
            integer("stop_at_failed"),
            integer("stop_at_succeeded"),
            real("cost_usd"),
            integer("cost_tokens"),
            integer("cost_attempts"),
            flag("closing"),
        ],
    ),
    table(
        "fm_snapshots",
        &[
            id("parent_id"),
            integer("join_no"),
            id("outer_parent"),
            integer("outer_join"),
            text("spec"),
            text("context"),
            text("items"),
        ],
    ),
    numbered(
        "fm_events",
        "fm_events_sequence_seq",
        &[
            integer("sequence"),
            text("id"),
            text("name"),
            id("source"),
            integer("at"),
            flag("delivered"),
            text("data"),
            text("attributes"),
            text("tenant_id"),
        ],
    ),
    table(
        "fm_idempotency",
        &[
            text("tenant_id"),
            text("flow_id"),
            text("key"),
            id("execution_id"),
            text("input_hash"),
            integer("expires_at"),
        ],
    ),
    table("fm_budgets", &[id("root_id"), real("cost_usd"), integer("cost_tokens"), integer("cost_attempts")]),
    table(
        "fm_checkpoints",
        &[
            id("execution_id"),
            integer("task_number"),
            text("id"),
            integer("saved_at"),
            text("data"),
            integer("version"),
            integer("bytes"),
            text("kind"),
            text("content_type"),
            text("object_key"),
        ],
    ),
    table(
        "fm_progress",
        &[
            id("execution_id"),
            integer("task_number"),
            integer("at"),
            integer("attempt"),
            real("percent"),
            text("step_id"),
            text("progress"),
        ],
    ),
    table(
        "fm_task_logs",
        &[
            id("execution_id"),
            integer("task_number"),
            integer("attempt"),
            integer("line"),
            integer("at"),
            text("step_id"),
            text("level"),
            text("message"),
        ],
    ),
    table(
        "fm_jobs",
        &[
            id("execution_id"),
            integer("task_number"),
            integer("attempt"),
            text("status"),
            text("step_id"),
            text("handler_type"),
            text("worker_id"),
            integer("created_at"),
            integer("claimed_at"),
            integer("started_at"),
            integer("completed_at"),
            real("progress_percent"),
            text("progress_message"),
            integer("last_heartbeat_at"),
            text("checkpoint_id"),
            integer("timeout_ms"),
            integer("max_retries"),
            integer("retry_count"),
            text("error"),
        ],
    ),
    table(
        "fm_context_patches",
        &[
            id("execution_id"),
            integer("task_number"),
            integer("attempt"),
            integer("sequence"),
            integer("bytes"),
            text("changes"),
        ],
    ),
    table("fm_objects", &[text("key"), flag("used"), integer("at")]),
    numbered(
        "fm_failed_tasks",
        "fm_failed_tasks_sequence_seq",
        &[
            integer("sequence"),
            id("execution_id"),
            integer("at"),
            text("task"),
            integer("task_number"),
            text("handler_type"),
            text("error_code"),
            text("settled_as"),
            integer("settled_at"),
            text("settled_by"),
            text("reason"),
        ],
    ),
    table("fm_tables", &[text("id"), text("columns"), integer("defined_at"), text("tenant_id")]),
    numbered(
        "fm_table_rows",
        "fm_table_rows_sequence",
        &[
            integer("sequence"),
            text("table_id"),
            text("id"),
            id("execution_id"),
            text("pipe"),
            integer("at"),
            text("row"),
            text("tenant_id"),
        ],
    ),
    table(
        "fm_webhooks",
        &[
            text("id"),
            text("url"),
            text("secret"),
            text("patterns"),
            text("description"),
            flag("active"),
            text("deactivated"),
            integer("failing_since"),
            integer("created_at"),
            text("tenant_id"),
        ],
    ),
    table(
        "fm_webhook_deliveries",
        &[
            text("webhook_id"),
            text("event_id"),
            text("event_name"),
            text("status"),
            integer("attempts"),
            integer("next_at"),
            integer("created_at"),
            integer("last_at"),
            integer("last_status"),
            text("last_error"),
            integer("duration_ms"),
        ],
    ),
    table(
        "fm_api_keys",
        &[
            text("id"),
            text("name"),
            text("hash"),
            text("scopes"),
            text("tenant_id"),
            integer("created_at"),
            integer("expires_at"),
            integer("revoked_at"),
            integer("last_used_at"),
        ],
    ),
    numbered(
        "fm_audit",
        "fm_audit_sequence_seq",
        &[
            integer("sequence"),
            text("id"),
            integer("at"),
            text("actor"),
            text("tenant_id"),
            text("method"),
            text("route"),
            text("target"),
            integer("status"),
            text("request_id"),
            integer("place"),
            text("hash"),
        ],
    ),
    table(
        "fm_pauses",
        &[text("kind"), text("tenant_id"), text("name"), integer("at"), text("by"), text("reason")],
    ),
    table(
        "fm_operations",
        &[
            text("id"),
            integer("created_at"),
            integer("ended_at"),
            text("operation"),
            text("tenant_id"),
            integer("handled"),
            integer("stopped_at"),
        ],
    ),
    table(
        "fm_retention",
        &[
            text("tenant_id"),
            text("flow_id"),
            integer("completed_ms"),
            integer("failed_ms"),
            integer("at"),
            text("by"),
        ],
    ),
    table("fm_operation_items", &[text("operation_id"), id("execution_id"), text("code")]),
    table("fm_keys", &[text("name"), Column { name: "key", kind: Kind::Bytes }]),
];

/// Tables that stay behind, and why.
#[cfg(test)]
pub(in crate::store) const STAY: [(&str, &str); 6] = [
    ("fm_health", "each record checks itself"),
    ("fm_migrations", "each record has its own migrations"),
    ("fm_schema", "each record has its own schema"),
    ("fm_flows_generation", "flows that arrive begin a generation of the other record"),
    ("fm_pools", "the queues are other ones: their generations begin anew"),
    ("fm_turns", "whose turn it was does not matter to engines that start"),
];

impl Table {
    /// Its columns as SQLite has them, to be read in this order.
    pub(in crate::store) fn select(&self) -> String {
        let columns: Vec<&str> = self
            .columns
            .iter()
            .map(|column| match column.kind {
                // Only executions with a task that is out have to be understood here.
                Kind::Pool => "CASE WHEN task_out THEN state END",
                Kind::Id | Kind::Integer | Kind::Real | Kind::Flag | Kind::Text | Kind::Bytes => column.name,
            })
            .collect();
        format!("SELECT {} FROM {}", columns.join(", "), self.name)
    }

    /// The statement by which Postgres takes its rows. `row` is quoted: it means something in SQL.
    pub(in crate::store) fn copy(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
        format!("COPY {} ({}) FROM STDIN", self.name, columns.join(", "))
    }
}

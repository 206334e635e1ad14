//! What every store must do. One function per rule, on a fresh store each; the same suite for every database.
//!
//! ```ignore
//! for rule in conformance::RULES {
//!     (rule.run)(fresh_store().await).await;
//! }
//! ```
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    reason = "a suite of tests: each rule's name says what it checks"
)]
#![expect(clippy::unwrap_used, reason = "a suite of tests")]

mod access;
mod commits;
mod context;
mod control;
mod differential;
mod events;
pub mod fixture;
mod flows;
mod idempotency;
mod jobs;
mod joins;
mod objects;
mod progress;
mod reads;
mod retention;
mod search;
mod tenants;
mod upkeep;

use std::pin::Pin;
use std::sync::Arc;

pub use differential::compare;

use super::Store;

/// A rule on its way.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Names it.
    pub name: &'static str,
    /// Checks it on a fresh store; panics where it does not hold.
    pub run: fn(Arc<dyn Store>) -> Running,
}

macro_rules! rules {
    ($($module:ident: $($name:ident),+;)+) => {
        /// All rules.
        pub const RULES: &[Rule] = &[$($(
            Rule { name: stringify!($name), run: |store| Box::pin(async move { $module::$name(&*store).await }) },
        )+)+];
    };
}

rules! {
    access:
        keys_are_kept_without_secrets_and_taken_back_once,
        keys_are_listed_newest_first,
        the_audit_keeps_its_order_and_counts_once,
        the_chain_of_the_audit_grows_at_its_end_only;
    commits:
        an_execution_reads_back_as_it_was_written,
        a_stale_update_changes_nothing_and_others_in_the_batch_go_on,
        a_batch_stored_twice_changes_nothing_the_second_time,
        concurrent_updates_of_one_version_hold_once,
        an_execution_occurs_once_in_a_batch,
        a_failed_execution_is_reopened,
        a_taken_id_is_refused_and_the_batch_goes_on,
        an_empty_batch_is_nothing,
        what_a_decision_starts_is_stored_only_with_it,
        a_null_output_is_not_a_missing_one,
        hostile_text_is_only_text;
    context:
        patches_are_fenced_and_repeatable,
        patches_of_an_attempt_have_a_limit,
        patches_end_with_their_attempt;
    control:
        parked_tasks_are_found_and_settled_once,
        a_pause_stands_until_it_is_lifted,
        archived_versions_are_not_the_latest,
        trees_are_deleted_when_all_has_ended,
        operations_go_on_where_they_were,
        operations_are_listed_by_tenant;
    idempotency:
        the_same_key_gives_the_same_execution,
        an_expired_key_is_taken_over,
        one_of_many_concurrent_starts_under_a_key_wins,
        a_key_twice_in_a_batch_starts_once,
        tenants_and_flows_have_keys_of_their_own,
        a_key_of_a_create_that_is_not_stored_stays_free;
    joins:
        a_fan_out_is_stored_with_its_snapshot_and_items,
        nested_snapshots_are_chained,
        children_are_made_all_or_none,
        a_closing_fan_out_gets_no_children,
        children_count_exactly_once,
        children_of_many_fan_outs_count_in_one_batch,
        a_conflicting_update_counts_no_child,
        the_end_takes_the_counters_and_leaves_the_snapshot,
        only_fan_outs_with_something_to_do_are_tended,
        children_come_in_order_and_by_page,
        spending_is_summed_for_the_root;
    reads:
        due_timers_come_earliest_first,
        tasks_out_come_in_order_and_by_page,
        lists_are_newest_first_and_paged,
        lists_are_filtered,
        history_comes_in_whole_decisions,
        counts_are_by_status,
        failed_tasks_come_newest_first;
    retention:
        flows_say_how_long_their_executions_are_kept,
        trees_go_by_the_flow_of_their_root;
    search:
        executions_are_found_by_time,
        executions_are_found_by_what_they_are_at,
        a_tenant_is_searched_alone,
        a_cursor_holds_while_executions_come_and_go,
        a_count_knows_no_pages;
    events:
        events_from_outside_count_once,
        published_events_have_stable_ids,
        events_that_name_themselves_count_once,
        events_since_come_oldest_first,
        subscribers_follow_the_wait,
        events_are_published_in_batches_and_listed,
        webhooks_are_kept_and_noted,
        deliveries_are_claimed_once_and_settled;
    flows:
        versions_are_immutable,
        the_latest_version_is_by_semver,
        whatever_changes_flows_begins_a_generation,
        a_create_for_another_generation_of_flows_is_not_stored,
        a_key_or_an_id_that_is_taken_is_so_in_any_generation_of_flows,
        definitions_are_kept_without_publication;
    jobs:
        heartbeats_of_jobs_are_fenced,
        what_is_said_of_jobs_counts_in_order,
        jobs_are_listed_and_go_with_their_executions;
    objects:
        content_comes_back_as_it_was,
        objects_are_garbage_when_nothing_refers_to_them;
    progress:
        the_latest_progress_of_a_task_counts,
        live_children_count_by_their_progress,
        a_log_line_is_kept_once_and_in_order,
        what_tasks_said_goes_with_time_and_with_the_execution;
    tenants:
        flows_of_tenants_have_names_of_their_own,
        events_of_tenants_have_ids_and_listeners_of_their_own,
        webhooks_keep_their_tenant,
        tables_of_tenants_have_rows_of_their_own,
        lists_of_what_belongs_to_executions_show_a_tenant_its_own;
    upkeep:
        checkpoints_are_fenced,
        equal_rows_are_inserted_once,
        tables_are_defined_and_replaced,
        a_signing_key_is_made_once,
        a_turn_is_one_holders_until_it_ends,
        generations_follow_the_servers,
        trees_are_pruned_as_a_whole,
        pruning_goes_in_steps,
        a_healthy_record_passes_its_check;
}

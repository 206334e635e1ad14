//! Query parameters that several routes have.
#![expect(dead_code, reason = "says which parameters there are")]

use serde::Deserialize;
use utoipa::IntoParams;

use super::words::ExecutionStatus;

/// Which executions are meant. All that is given has to hold.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ExecutionQuery {
    /// One of these statuses, separated by commas.
    #[param(style = Form, explode = false, min_items = 1)]
    status: Option<Vec<ExecutionStatus>>,
    /// The flow.
    flow_id: Option<String>,
    /// The version of the flow.
    version: Option<String>,
    /// The value of the label `NAME`; any number of labels.
    #[serde(rename = "label.NAME")]
    label: Option<String>,
    /// The tenant.
    tenant_id: Option<String>,
    /// Created at this instant or later.
    #[param(format = DateTime)]
    created_after: Option<String>,
    /// Created before this instant.
    #[param(format = DateTime)]
    created_before: Option<String>,
    /// Last changed at this instant or later.
    #[param(format = DateTime)]
    updated_after: Option<String>,
    /// Last changed before this instant.
    #[param(format = DateTime)]
    updated_before: Option<String>,
    /// Ended at this instant or later.
    #[param(format = DateTime)]
    ended_after: Option<String>,
    /// Ended before this instant.
    #[param(format = DateTime)]
    ended_before: Option<String>,
    /// The code of its error.
    error_code: Option<String>,
    /// The step that it is at, or ended at.
    current_step_id: Option<String>,
    /// How the reason begins for which it waits.
    waiting_reason: Option<String>,
    /// How its id begins.
    #[param(pattern = "^(ex_)?[0-9a-fA-F]{1,32}$")]
    id: Option<String>,
    /// Only children of this execution.
    parent: Option<String>,
    /// Children of all, too.
    children: Option<bool>,
}

/// Which page of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct PageQuery {
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Items of the page; 50 when not given.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Whose it is, said by callers that see all.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct TenantQuery {
    /// The tenant; without one what is of none is meant.
    #[param(min_length = 1)]
    tenant_id: Option<String>,
}

/// Which events are meant.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct EventQuery {
    /// Its name.
    name: Option<String>,
    /// Published at this instant or later.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Published before this instant.
    #[param(format = DateTime)]
    until: Option<String>,
}

//! Words that fields and parameters may have, taken from where the engine knows them.

use flowmonkey_core::execution::Status;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{Array, OneOfBuilder, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::access::Scope;
use crate::api::tables::COLUMN_TYPES;
use crate::bulk::Verb;

/// A text that is one of these words.
fn one_of<'w>(description: &str, words: impl IntoIterator<Item = &'w str>) -> RefOr<Schema> {
    let object = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    object.enum_values(Some(words)).build().into()
}

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident of $words:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Serialize, Deserialize)]
        pub(in crate::api) enum $name {}

        impl ToSchema for $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                one_of(concat!($($doc),+).trim(), $words)
            }
        }
    )+};
}

words! {
    /// Where an execution is.
    ExecutionStatus of Status::ALL.map(Status::as_str);
    /// What a key allows.
    ScopeWord of Scope::ALL.map(Scope::as_str);
    /// What is done to many executions.
    VerbWord of Verb::ALL.map(Verb::as_str);
    /// What the values of a column are.
    ColumnType of COLUMN_TYPES;
}

/// One flow, or a list of flows.
pub(super) fn one_or_many_flows() -> RefOr<Schema> {
    let flow = || Ref::from_schema_name("FlowDefinition");
    let schema = OneOfBuilder::new()
        .description(Some(
            "A flow, or a list of flows of which one starts and the others may be its sub-flows. Nothing is published.",
        ))
        .item(flow())
        .item(Array::new(flow()))
        .build();
    RefOr::T(schema.into())
}

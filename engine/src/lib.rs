//! The engine shell: stores, chores and services round the pure core.
//!
//! Architecture invariant: the engine never runs handler code and never links `handlers/` or `worker-runtime/`.

pub mod store;

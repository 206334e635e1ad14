//! The pure core of FlowMonkey: the flow language ([`flow`]) and the decisions ([`execution`]).
//!
//! Architecture invariant: nothing here reads a clock, draws randomness, awaits, logs, or touches a file or socket. Time,
//! ids and chance are arguments. A test over `cargo metadata` proves that no I/O crate is a dependency.

pub mod context;
pub mod execution;
pub mod flow;
pub mod ids;
pub mod limits;
pub mod time;

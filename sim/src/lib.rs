//! Deterministic simulation of the engine: the real core, shell and chores over a faulty record and queue in virtual time,
//! with checkers that keep their own books. See `README.md`.

pub mod books;
pub mod boundary;
pub mod client;
pub mod clock;
pub mod engines;
pub mod executor;
pub mod plants;
pub mod queue;
pub mod random;
mod result;
pub mod simulation;
pub mod sometimes;
pub mod store;
pub mod worker;
pub mod workload;

pub use books::Violation;
pub use plants::Plant;
pub use simulation::{Options, Report, Simulation};

//! Deterministic simulation of the engine under faults, with checkers that keep their own books.

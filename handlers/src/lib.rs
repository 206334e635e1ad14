//! The stock handlers.

//! The rules that every queue must keep, as functions for the tests of each implementation.

//! Private servers for the tests.

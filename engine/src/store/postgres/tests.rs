//! Tests that look inside: statements, plans, the schema.

//! The engine shell: stores, chores and services round the pure core.

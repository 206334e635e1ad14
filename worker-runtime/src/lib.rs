//! The worker runtime: claims tasks, runs handlers, keeps leases, reports results.

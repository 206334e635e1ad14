//! The queue in Redis, on private servers: the rules of every queue, and what only happens with Redis.

#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

mod rules {
    use super::support::new_queue;

    flowmonkey_plumbing::queue_conformance!(new_queue);
}

//! The queue in Redis, on private servers: the rules of every queue, and what only happens with Redis.

#![expect(clippy::unwrap_used, reason = "test code")]

mod acl;
mod broadcast;
mod cluster;
mod crowd;
mod faults;
mod garbage;
mod listening;
mod load;
mod servers;
mod support;
mod tls;

mod rules {
    use super::support::new_queue;

    flowmonkey_plumbing::queue_conformance!(new_queue);
}

mod rules_for_an_engine_with_a_name {
    use super::support::new_queue_of_an_engine;

    flowmonkey_plumbing::queue_conformance!(new_queue_of_an_engine);
}

mod rules_in_a_cluster {
    use super::support::new_cluster_queue;

    flowmonkey_plumbing::queue_conformance!(new_cluster_queue);
}

mod rules_in_a_cluster_with_tls {
    use super::tls::new_cluster_queue;

    flowmonkey_plumbing::queue_conformance!(new_cluster_queue);
}

mod rules_behind_sentinels_with_tls {
    use super::tls::new_sentinel_queue;

    flowmonkey_plumbing::queue_conformance!(new_sentinel_queue);
}

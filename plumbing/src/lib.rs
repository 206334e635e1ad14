//! All that crosses between engine and worker: messages, queues, the plumbing APIs.

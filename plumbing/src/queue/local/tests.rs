//! What only the local queue promises; the rules of every queue are in the conformance suite.

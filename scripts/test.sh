#!/bin/sh
# The whole test run: what it needs, the lints, the tests. Installs what is missing on Debian when it may, else says what
# to install.
set -eu
cd "$(dirname "$0")/.."

need() { # command, Debian package, what for
    command -v "$1" >/dev/null 2>&1 && return 0
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        echo "installing $2 ($3)"
        apt-get install -y --no-install-recommends "$2" >/dev/null 2>&1 ||
            { apt-get update >/dev/null && apt-get install -y --no-install-recommends "$2" >/dev/null; }
    else
        echo "missing: $1 ($3). Install it; on Debian: apt-get install $2" >&2
        exit 1
    fi
}

need cc gcc "SQLite is compiled from its sources"
need python3 python3 "handlers in Python are part of the tests"
cargo clippy --version >/dev/null 2>&1 || { echo "missing: clippy. Install it: rustup component add clippy" >&2; exit 1; }
cargo fmt --version >/dev/null 2>&1 || { echo "missing: rustfmt. Install it: rustup component add rustfmt" >&2; exit 1; }

cargo fmt --check
cargo clippy --locked --workspace --all-targets -- -D warnings
cargo test --locked --workspace

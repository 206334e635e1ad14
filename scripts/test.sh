#!/bin/sh
# The whole test run: what it needs, the lints, the tests. Installs what is missing on Debian when it may, else says what
# to install.
set -eu
cd "$(dirname "$0")/.."

need() { # a command that succeeds when it is there, Debian package, what for
    sh -c "$1" >/dev/null 2>&1 && return 0
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        echo "installing $2 ($3)"
        install "$2" || { apt-get update >/dev/null && install "$2"; } || true
        sh -c "$1" >/dev/null 2>&1 && return 0
    fi
    echo "missing: $2 ($3). Install it; on Debian: apt-get install $2" >&2
    exit 1
}

# In runlevel 1 Debian does not start the services that come with a package: the tests start servers of their own.
install() { RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1" >/dev/null 2>&1; }

need "command -v cc" gcc "SQLite is compiled from its sources"
need "command -v python3" python3 "handlers in Python are part of the tests"
need "python3 -c 'import ensurepip'" python3-venv "the S3 server and the HTTP tester of the tests are Python programs"
need "command -v redis-server" redis-server "the tests start private servers"
need "command -v redis-sentinel" redis-sentinel "the tests start private servers"
# Debian keeps the programs of the server out of the PATH.
need "ls /usr/lib/postgresql/*/bin/postgres || command -v postgres" postgresql "the tests start private servers"
need "[ -x /usr/sbin/pgbouncer ] || command -v pgbouncer" pgbouncer "the tests start private servers"
need "command -v ffmpeg && command -v ffprobe" ffmpeg "the handler video-processing is part of the tests"
# A library that shifts the time of a process, for the tests of clocks that are apart.
need "ls /usr/lib/*/faketime/libfaketimeMT.so.1" faketime "the end-to-end tests run processes whose clocks differ"
for module in redis msgpack zstandard; do
    need "/usr/bin/python3 -c 'import $module'" "python3-$module" "the worker in Python of the end-to-end tests"
done
cargo clippy --version >/dev/null 2>&1 || { echo "missing: clippy. Install it: rustup component add clippy" >&2; exit 1; }
cargo fmt --version >/dev/null 2>&1 || { echo "missing: rustfmt. Install it: rustup component add rustfmt" >&2; exit 1; }

sh scripts/s3-server.sh
sh scripts/schemathesis.sh

cargo fetch --locked --quiet
cargo fmt --check
cargo clippy --locked --workspace --all-targets -- -D warnings
# The end-to-end tests wait for leases and servers a quarter of the time: half as many again as there are cores keep all busy.
cores=$(getconf _NPROCESSORS_ONLN)
RUST_TEST_THREADS="${RUST_TEST_THREADS:-$((cores + cores / 2))}" cargo test --locked --workspace

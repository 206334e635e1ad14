#!/bin/sh
# Makes target/schemathesis: the tester of the HTTP API, in a virtual environment of its own. Does nothing when it is there.
set -eu
cd "$(dirname "$0")/.."
folder=target/schemathesis
[ -f "$folder/complete" ] && exit 0
rm -rf "$folder"
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --no-deps --require-hashes -r scripts/schemathesis-requirements.txt
# What it stands on: only ever run by the tests.
"$folder/bin/pip" install --quiet -c scripts/schemathesis-constraints.txt schemathesis
touch "$folder/complete"

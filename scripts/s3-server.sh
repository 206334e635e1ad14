#!/bin/sh
# Makes target/ministack: the S3 server of the tests, in a virtual environment of its own. Does nothing when it is there.
set -eu
cd "$(dirname "$0")/.."
folder=target/ministack
[ -f "$folder/complete" ] && exit 0
rm -rf "$folder"
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --no-deps --require-hashes -r scripts/s3-requirements.txt
# What it stands on: only ever run by the tests.
"$folder/bin/pip" install --quiet -c scripts/s3-constraints.txt ministack
touch "$folder/complete"

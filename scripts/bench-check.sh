#!/bin/sh
# Counts the instructions of the pure parts under callgrind, and compares them with loadtest/instructions.json: more than a
# tenth above it is an error. `bench-check.sh --bless` writes the file anew.
set -eu
cd "$(dirname "$0")/.."
if ! command -v valgrind >/dev/null; then
    echo "bench-check needs valgrind; on Debian: apt-get install valgrind" >&2
    exit 1
fi
# Both, so that dependencies are built once for all that is measured.
cargo build --release -p flowmonkey -p flowmonkey-loadtest
program="${CARGO_TARGET_DIR:-target}/release/flowmonkey-loadtest"
counts="$(mktemp -d)"
trap 'rm -rf "$counts"' EXIT

# Instructions of a run of the case $1, $2 times.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" micro --only "$1" --times "$2" 2>&1 >/dev/null |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}

"$program" micro --list | while IFS= read -r name; do
    # What a run costs beside the cases is the same in both.
    few=$(count "$name" 100)
    many=$(count "$name" 300)
    printf '%s\t%s\n' "$name" $(((many - few) / 200)) | tee -a "$counts/now"
done
python3 - "$counts/now" "${1:-}" <<'PYTHON'
import json, sys
path = "loadtest/instructions.json"
now = dict(line.rstrip("\n").split("\t") for line in open(sys.argv[1]))
now = {name: int(count) for name, count in now.items()}
if sys.argv[2] == "--bless":
    with open(path, "w") as file:
        file.write(json.dumps(now, indent=2) + "\n")
    sys.exit()
before = json.load(open(path))
if before.keys() != now.keys():
    sys.exit(f"{path} knows other cases: {sorted(before.keys() ^ now.keys())}; see --bless")
slower = []
for name, count in now.items():
    ratio = count / before[name]
    print(f"{ratio:6.3f}  {name}")
    if ratio > 1.1:
        slower.append(name)
if slower:
    sys.exit(f"more than a tenth above {path}: {', '.join(slower)}")
PYTHON

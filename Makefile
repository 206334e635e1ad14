# Each target is one line; `make test` is exactly what CI runs.
.PHONY: demo test lint bench bench-check bench-peers fmt docs

demo: ; cargo run --release -- demo

test: ; sh scripts/test.sh

lint: ; cargo fmt --check && cargo clippy --workspace --all-targets -- -D warnings

bench: ; cargo build --release -p flowmonkey -p flowmonkey-loadtest && target/release/flowmonkey-loadtest short

bench-check: ; sh scripts/bench-check.sh

bench-peers: ; cargo build --release -p flowmonkey -p flowmonkey-loadtest && target/release/flowmonkey-loadtest peers --output table

fmt: ; cargo fmt

docs: ; FLOWMONKEY_BLESS=1 cargo test -p flowmonkey-core --test flow_documents

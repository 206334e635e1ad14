# Each target is one line; `make test` is exactly what CI runs.
.PHONY: demo test lint bench fmt docs

demo: ; cargo run --release -- demo

test: ; sh scripts/test.sh

lint: ; cargo fmt --check && cargo clippy --workspace --all-targets -- -D warnings

bench: ; cargo run --release -p flowmonkey-loadtest -- short

fmt: ; cargo fmt

docs: ; FLOWMONKEY_BLESS=1 cargo test -p flowmonkey-core --test flow_documents

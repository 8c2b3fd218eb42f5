# Thin: each target calls cargo or one script. `make help` lists them.
.DEFAULT_GOAL := help
CARGO_FLAGS := --workspace --features hone-client/cli
SDK := hone-proto hone-job hone-spec hone-metrics hone-client

.PHONY: help tools libtorch build demo sft-dpo run test web-test lint interop soak load k8s fuzz bench package protos descriptors

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 12

tools: # says what is missing, before anything long starts
	@scripts/check_tools.sh

libtorch: tools ## fetch LibTorch into .libtorch (CPU; CUDA where a GPU is visible)
	@python3 scripts/fetch.py libtorch

build: libtorch ## build everything
	cargo build $(CARGO_FLAGS)

demo: build ## fine-tune a real model end to end and show what changed
	@python3 scripts/fetch.py model rows grpcurl
	@scripts/demo.sh

sft-dpo: build ## a real run of SFT, then DPO on derived pairs, then an export
	@python3 scripts/fetch.py model rows
	@scripts/sft_then_dpo.sh

run: build ## start a server on this machine, data in .hone
	@exec $${CARGO_TARGET_DIR:-target}/debug/hone-server

test: build ## all tests, with the S3 server, grpcurl and buf that they use
	@python3 scripts/fetch.py model rows grpcurl buf seaweedfs
	cargo test $(CARGO_FLAGS) --no-fail-fast

web-test: build ## the web page in Chromium, over real runs; PICTURES=docs/pictures takes those of docs/web.md
	@tests/web/run.sh

lint: libtorch ## format, protos, links, dependencies, clippy and docs with warnings denied
	@python3 scripts/fetch.py buf
	@test -x .cache/bin/cargo-deny || cargo install cargo-deny@0.20.2 --locked --root .cache
	cargo fmt --all --check
	.cache/bin/cargo-deny --log-level error check bans licenses sources
	cd proto && ../.cache/bin/buf lint && ../.cache/bin/buf format -d --exit-code
	scripts/spec_schema.py --check
	scripts/check_links.py
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps

package: ## the crates of the SDK as they would be published, each built from its package alone
	@# Cargo keeps what it unpacks of such packages by path and version: a clone where an earlier commit lay would build that one's.
	rm -rf $${CARGO_HOME:-$$HOME/.cargo}/registry/src/-*/hone-*
	CARGO_PROFILE_DEV_DEBUG=false cargo package --locked --allow-dirty --target-dir $${CARGO_TARGET_DIR:-target}/packages $(SDK:%=-p %)

protos: ## write anew what is generated from the protos: proto/src/generated, the spec's pages
	cargo run -p hone-codegen
	scripts/spec_schema.py

descriptors: ## write the public protos as one descriptor set, hone.binpb
	@python3 scripts/fetch.py buf
	cd proto && ../.cache/bin/buf build --path hone/v1 --as-file-descriptor-set --output ../hone.binpb

interop: build ## compare with transformers, PEFT and TRL, and try docs and examples, in a Python environment of its own
	@python3 scripts/fetch.py model buf oteltap
	tests/interop/run.sh

soak: build ## a hundred random faults in one run, which must end as if there had been none
	@python3 scripts/fetch.py seaweedfs
	@$${CARGO_TARGET_DIR:-target}/debug/soak $${FAULTS:-100} $${SEED:-1} $${METHOD:-sft}

load: build ## a thousand watchers, a queue of 200 jobs and 16 uploads of 1 GiB at once
	@$${CARGO_TARGET_DIR:-target}/debug/load

k8s: build ## the manifests against schemas and policies, and a pod of them drained in mid-training; needs root
	@python3 scripts/fetch.py kubernetes grpcurl seaweedfs promtool
	@python3 tests/k8s/run.py $(PART)

fuzz: libtorch ## feed one parser what nobody would write: TARGET=gguf TIME=60 (seconds); needs nightly
	@fuzz/run.sh $(TARGET) $(TIME)

bench: libtorch ## tokens per second beside TRL + PEFT on the same work
	cargo build --release --features hone-client/cli -p hone-client -p hone-server -p hone-trainer
	bench/run.sh

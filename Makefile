# Darda. `make help` lists what there is.

WEB_SOURCES := $(shell find web/src web/public web/*.html web/*.ts web/package-lock.json -type f 2>/dev/null)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 15

.PHONY: run
run: ## Set up, build and start the chat on http://127.0.0.1:8080, data in ./data
	@scripts/setup run
	@$(MAKE) --no-print-directory web/dist/index.html
	@echo "building (the first time takes some minutes)"
	@cargo build --profile quick --package standalone --bin standalone
	@DARDA_LOG=$${DARDA_LOG:-warn} exec target/quick/standalone

.PHONY: cluster
cluster: ## Two chat-services on http://127.0.0.1:8080 and 8081 over Redis, RabbitMQ and MongoDB, data in ./data/cluster
	@scripts/setup cluster
	@$(MAKE) --no-print-directory web/dist/index.html
	@echo "building (the first time takes some minutes)"
	@cargo build --profile quick --package chat-service --package persistence-worker --package history-service --package testbed --bins
	@exec target/quick/testbed cluster

.PHONY: test
test: setup-test web ## Set up and pass all tests
	@scripts/test

.PHONY: setup-test
setup-test:
	@scripts/setup test

.PHONY: bench
bench: ## Measure this machine: Darda beside a reference and the floor (about 20 minutes)
	@scripts/setup run
	@scripts/first-run
	@cargo build --release --package standalone --package loadgen --bins
	@target/release/loadgen bench

.PHONY: bench-cluster
bench-cluster: ## Measure the cluster family on this machine, each process's processor time apart (about 10 minutes)
	@scripts/setup cluster
	@$(MAKE) --no-print-directory web/dist/index.html
	@cargo build --release --package chat-service --package persistence-worker --package history-service --package loadgen --bins
	@target/release/loadgen bench-cluster

.PHONY: check-faults
SECONDS_BUDGET ?= 1200
SEED ?= $(shell date +%s)
check-faults: setup-test ## Break it in every way under load and judge (SECONDS_BUDGET=1200 SEED=…)
	@cargo build --quiet --workspace --bins
	@target/debug/checker matrix --seconds $(SECONDS_BUDGET) --seed $(SEED)

.PHONY: test-kube
test-kube: ## Try the chart on the cluster of KUBECONFIG, under load (DARDA_TEST_REGISTRY=…; tests/kube/README.md)
	@tests/kube/run

.PHONY: web
web: web/dist/index.html ## Build the web page

web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	@echo "installing the web page's packages into web/node_modules"
	@cd web && npm ci --silent --no-audit --no-fund
	@touch $@

web/dist/index.html: web/node_modules/.package-lock.json $(WEB_SOURCES)
	@echo "building the web page"
	@cd web && npm run --silent build
	@touch $@

.PHONY: fmt
fmt: web/node_modules/.package-lock.json ## Format everything
	cargo fmt --all
	cd web && npm run --silent format

.PHONY: lint
lint: web/node_modules/.package-lock.json ## What the tests check about style
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cd web && npm run --silent check

.PHONY: deny
deny: setup-test ## Check dependencies, known vulnerabilities included (asks the advisory database)
	PATH="$$PWD/.tools/bin:$$PATH" cargo deny check

.PHONY: release
release: web ## Build what ships: target/release/{standalone,darda,chat-service,history-service,persistence-worker,…}
	cargo build --release --workspace --bins

.PHONY: clean
clean: ## Remove what was built (not ./data)
	cargo clean
	rm -rf web/dist web/node_modules .tools
